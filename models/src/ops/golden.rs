//! LSTM and CRF against PyTorch: `tests/golden/ss.json`, made by `tests/golden/make_ss.py`.

use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::ops::{ANY, CrfWeights, Lattice, LstmWeights, bilstm, crf_loss};
use crate::tape::{Tape, Var};

const GOLDEN: &str = include_str!("../../../tests/golden/ss.json");

fn tensor(value: &Value) -> Tensor {
    let integers = |v: &Value| serde_json::from_value::<Vec<usize>>(v.clone()).unwrap();
    let data: Vec<f64> = serde_json::from_value(value["data"].clone()).unwrap();
    Tensor::from_vec(data, integers(&value["shape"]), &Device::Cpu).unwrap()
}

fn lengths(value: &Value) -> Vec<usize> {
    serde_json::from_value(value["lengths"].clone()).unwrap()
}

fn assert_close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    assert!(worst < 1e-12, "{what}: {worst}");
}

#[test]
fn the_lstm_and_its_gradients_are_pytorchs() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let golden = &golden["lstm"];
    let tape = Tape::on();
    let x = tape.input(tensor(&golden["x"]));
    let names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"];
    let direction = |suffix: &str| {
        let named = names.map(|name| format!("{name}{suffix}"));
        let vars = named.each_ref().map(|name| tape.input(tensor(&golden["weights"][name])));
        let [weight_ih, weight_hh, bias_ih, bias_hh] = vars.clone();
        (LstmWeights { weight_ih, weight_hh, bias_ih, bias_hh }, named.into_iter().zip(vars))
    };
    let (forward, forward_vars) = direction("");
    let (reverse, reverse_vars) = direction("_reverse");
    let y = bilstm(&tape, &x, &forward, &reverse, &lengths(golden)).unwrap();
    assert_close("y", y.value(), &tensor(&golden["y"]));
    let grads = tape.backward_from(&[(&y, tensor(&golden["dy"]))]).unwrap();
    assert_close("dx", grads.input(&x).unwrap(), &tensor(&golden["dx"]));
    for (name, var) in forward_vars.chain(reverse_vars) {
        assert_close(&name, grads.input(&var).unwrap(), &tensor(&golden["gradients"][&name]));
    }
}

#[test]
fn the_crf_and_its_gradients_are_those_of_autograd() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let golden = &golden["crf"];
    let tape = Tape::on();
    let emissions = tape.input(tensor(&golden["emissions"]));
    let weights: Vec<Var> =
        golden["weights"].as_array().unwrap().iter().map(|w| tape.input(tensor(w))).collect();
    let crf =
        CrfWeights { transitions: weights[0].clone(), start: weights[1].clone(), end: weights[2].clone() };
    let labels: Vec<Vec<u8>> = serde_json::from_value(golden["labels"].clone()).unwrap();
    let n_labels = emissions.value().dims()[2];
    let set = |&label: &u8| if usize::from(label) < n_labels { 1 << label } else { ANY };
    let sets: Vec<Vec<u32>> = labels.iter().map(|row| row.iter().map(set).collect()).collect();
    let sets = Tensor::new(sets, &Device::Cpu).unwrap();
    let lattice = Lattice::new(&vec![1; n_labels], &[]).unwrap();
    let loss = crf_loss(&tape, &emissions, &crf, &lattice, &sets, &lengths(golden)).unwrap();
    let value = loss.value().to_scalar::<f64>().unwrap();
    assert!((value - golden["loss"].as_f64().unwrap()).abs() < 1e-12);
    let grads = tape.backward(&loss).unwrap();
    assert_close("emissions", grads.input(&emissions).unwrap(), &tensor(&golden["d_emissions"]));
    for (at, (var, want)) in weights.iter().zip(golden["d_weights"].as_array().unwrap()).enumerate() {
        assert_close(&format!("weight {at}"), grads.input(var).unwrap(), &tensor(want));
    }
}
