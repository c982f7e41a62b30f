use candle_core::{D, DType, Device, IndexOp};
use rand::SeedableRng;

use super::*;

const LENGTHS: [usize; 3] = [13, 7, 11];

fn config() -> ContactConfig {
    ContactConfig {
        n_tokens: 27,
        n_classes: 4,
        single: 10,
        conv_layers: 1,
        kernel: 3,
        pair: 7,
        outer: 3,
        triangle: 5,
        blocks: 1,
        relpos: 4,
        dropout: 0.1,
    }
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn weights() -> Weights {
    Weights::random(|name| rng(name.bytes().map(u64::from).sum()))
}

fn model() -> ContactClassifier {
    ContactClassifier::new(config(), weights()).unwrap()
}

fn tokens() -> Tensor {
    let ids: Vec<u32> = (0..3 * 13u32).map(|i| 2 + (i * i * 31 + 7 * i) % 20).collect();
    Tensor::from_vec(ids, (3, 13), &Device::Cpu).unwrap()
}

fn bits(t: Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_chain_gives_the_same_bits_alone_and_in_a_padded_batch() {
    let model = model();
    let all = model.forward(&Tape::off(), &tokens(), &LENGTHS, None).unwrap();
    for (row, &n) in LENGTHS.iter().enumerate() {
        let alone = tokens().i((row..row + 1, ..n)).unwrap();
        let alone = model.forward(&Tape::off(), &alone, &[n], None).unwrap();
        let map = all.contacts.value().i((row, ..n, ..n)).unwrap();
        assert_eq!(bits(alone.contacts.value().clone()), bits(map.clone()), "row {row}");
        assert_eq!(bits(map.t().unwrap()), bits(map));
        assert_eq!(bits(alone.classes.value().clone()), bits(all.classes.value().i(row).unwrap()));
    }
}

#[test]
fn four_maps_are_learnt_and_every_weight_has_a_gradient() {
    let model = model();
    let target = |i: usize| f32::from(u8::from((i / 13 % 13 + i % 13).is_multiple_of(5)));
    let targets =
        Tensor::from_vec((0..3 * 169).map(target).collect::<Vec<f32>>(), (3, 13, 13), &Device::Cpu).unwrap();
    let ones = targets.ones_like().unwrap();
    let classes =
        Tensor::new(&[[1f32, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], &Device::Cpu);
    let classes = classes.unwrap();
    let mut losses = vec![];
    for step in 0..120 {
        let tape = Tape::on();
        let out = model.forward(&tape, &tokens(), &LENGTHS, None).unwrap();
        let map = ops::binary_cross_entropy(&tape, &out.contacts, &targets, &ones).unwrap();
        let class =
            ops::binary_cross_entropy(&tape, &out.classes, &classes, &classes.ones_like().unwrap()).unwrap();
        let loss = ops::add(&tape, &map, &class).unwrap();
        losses.push(loss.value().to_scalar::<f32>().unwrap());
        let grads = tape.backward(&loss).unwrap().params;
        for param in model.params().iter() {
            let grad =
                grads.get(&**param.name()).unwrap_or_else(|| panic!("{} has no gradient", param.name()));
            let norm = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(step > 0 || norm > 0.0, "{}", param.name());
            param.assign(&(param.value() - (grad * 0.5).unwrap()).unwrap()).unwrap();
        }
    }
    assert!(losses[119] < 0.5 * losses[0], "{} … {}", losses[0], losses[119]);
}

/// The block from Algorithms 11 and 12 in candle's own differentiable operations.
fn judge(p: &[Tensor], z: &Tensor, n: usize, edges: Triangle) -> Result<Tensor> {
    let norm = |x: &Tensor, weight: &Tensor, bias: &Tensor| -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
    };
    let linear = |x: &Tensor, weight: &Tensor, bias: &Tensor| -> Result<Tensor> {
        x.broadcast_matmul(&weight.t()?)?.broadcast_add(bias)
    };
    let sigmoid = |x: &Tensor| -> Result<Tensor> { (x.neg()?.exp()? + 1.0)?.recip() };
    let z = norm(&z.i((.., ..n, ..n, ..))?, &p[3], &p[2])?;
    let x = linear(&z, &p[9], &p[8])?;
    let c = x.dim(D::Minus1)? / 4;
    let part = |i: usize| x.narrow(D::Minus1, i * c, c);
    // [B, c, n, n]
    let a = (part(0)? * sigmoid(&part(1)?)?)?.permute((0, 3, 1, 2))?.contiguous()?;
    let b = (part(2)? * sigmoid(&part(3)?)?)?.permute((0, 3, 1, 2))?.contiguous()?;
    let t = match edges {
        Triangle::Outgoing => a.matmul(&b.t()?.contiguous()?)?,
        Triangle::Incoming => a.t()?.contiguous()?.matmul(&b)?,
    };
    let t = norm(&t.permute((0, 2, 3, 1))?.contiguous()?, &p[5], &p[4])?;
    sigmoid(&linear(&z, &p[1], &p[0])?)? * linear(&t, &p[7], &p[6])?
}

/// The tape proof: values and all gradients of the triangle block against candle's autograd.
#[test]
fn the_triangle_block_is_that_of_candles_autograd() {
    let (l, pair, hidden) = (11, 7, 5);
    for edges in [Triangle::Outgoing, Triangle::Incoming] {
        let weights = weights();
        let block = TriangleBlock::new(edges, pair, hidden, &weights).unwrap();
        let params = weights.finish().unwrap();
        let z: Vec<f32> = (0..2 * l * l * pair).map(|i| (i as f32 * 0.37).sin()).collect();
        let z = Tensor::from_vec(z, (2, l, l, pair), &Device::Cpu).unwrap();
        let weigh = z.affine(1.3, 0.2).unwrap().cos().unwrap();

        let tape = Tape::on();
        let input = tape.input(z.clone());
        let out = block.forward(&tape, &input, &[l, l]).unwrap();
        let value = out.value().clone();
        let grads = tape.backward_from(&[(&out, weigh.clone())]).unwrap();

        let leaf = |t: &Tensor| candle_core::Var::from_tensor(t).unwrap().into_inner();
        let leaves: Vec<Tensor> = params.iter().map(|p| leaf(p.value())).collect();
        let z = leaf(&z);
        let want = judge(&leaves, &z, l, edges).unwrap();
        let found = (&want * weigh).unwrap().sum_all().unwrap().backward().unwrap();
        let close = |what: &str, got: &Tensor, want: &Tensor| {
            let scale = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst <= 1e-5 * scale.max(1.0), "{edges:?} {what}: {worst} of {scale}");
        };
        close("value", &value, &want.to_dtype(DType::F32).unwrap());
        close("z", grads.input(&input).unwrap(), found.get(&z).unwrap());
        for (param, leaf) in params.iter().zip(&leaves) {
            close(param.name(), &grads.params[&**param.name()], found.get(leaf).unwrap());
        }
    }
}
