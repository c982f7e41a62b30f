//! What the protein path promises beyond its numbers.

use candle_core::{Device, IndexOp, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::llm::behaviour::{Moments, adam, assert_all_trained, named, tiny, tokens};
use crate::llm::bridge::{self, Bridge, FlamingoConfig, PerceiverConfig, PoolConfig, Reader};
use crate::llm::encoder::{self, Esm2};
use crate::llm::{Layout, LoraConfig, ProteinLlm, ProteinPath, Proteins, Rows, Sampling, generate};
use crate::ops;
use crate::tape::{Tape, Var};
use crate::weights::Weights;

const START: u32 = 58;
const SLOT: u32 = 59;
const END: u32 = 60;

fn encoder() -> Esm2 {
    let config = encoder::Config {
        hidden_size: 28,
        num_hidden_layers: 2,
        num_attention_heads: 7,
        intermediate_size: 41,
        max_position_embeddings: 64,
        layer_norm_eps: 1e-5,
        token_dropout: true,
    };
    let encoder = Esm2::new(config, Weights::random(named)).unwrap();
    for param in encoder.params().iter().filter(|p| p.name().ends_with("weight") && !p.name().contains("orm"))
    {
        param.update(|x| x.iter_mut().for_each(|x| *x *= 10.0)).unwrap();
    }
    encoder
}

const ENDS: bridge::Ends =
    bridge::Ends { encoder_size: 28, llm_size: 26, boundary_ids: [START, END], placeholder_id: SLOT };

fn pool() -> Reader {
    Reader::Pool(PoolConfig { n_queries: 3, mean: true, site: true, n_heads: 4, hidden_size: 17 })
}

/// Every kind of bridge.
pub(crate) fn readers() -> [Reader; 3] {
    let perceiver =
        PerceiverConfig { n_latents: 5, n_layers: 2, width: 14, n_heads: 2, ffn_size: 19, site: true };
    let flamingo = FlamingoConfig {
        n_latents: 4,
        n_layers: 2,
        n_heads: 3,
        head_dim: 5,
        every: 1,
        n_blocks: 2,
        max_residues: 40,
        site: true,
    };
    [pool(), Reader::Perceiver(perceiver), Reader::Flamingo(flamingo)]
}

fn lora() -> LoraConfig {
    LoraConfig {
        target_modules: ["k_proj", "v_proj"].into(),
        r: 3,
        lora_alpha: 6.0,
        use_rslora: true,
        ..LoraConfig::default()
    }
}

fn model(reader: Reader) -> ProteinLlm {
    let llm = tiny(true).with_lora(&lora(), Weights::random(named)).unwrap();
    let config = bridge::Config { ends: ENDS, reader };
    let bridge = Bridge::new(config, Weights::random(named), llm.embedding().value()).unwrap();
    let spread =
        |name: &str| name.contains("query_tokens") || name.ends_with("weight") && name.contains("cross.");
    for param in bridge.params().iter().filter(|p| spread(p.name())) {
        param.update(|x| x.iter_mut().for_each(|x| *x *= 3.0)).unwrap();
    }
    for param in bridge.params().iter().filter(|p| p.name().ends_with("_gate")) {
        param.update(|x| x.fill(0.7)).unwrap(); // shut gates would hide everything
    }
    ProteinLlm::new(llm, Some(ProteinPath { encoder: encoder().into(), bridge })).unwrap()
}

/// A model of one kind of bridge on a device.
#[cfg(feature = "cuda")]
pub(crate) fn model_on(reader: Reader, device: &Device) -> Result<ProteinLlm> {
    model(reader).to_device(device)
}

/// Loss and gradients of a step on [`example`]: the last tokens of each row are predicted.
#[cfg(feature = "cuda")]
pub(crate) fn step(model: &ProteinLlm) -> Result<(Tensor, crate::tape::Gradients)> {
    let (rows, proteins) = example(n_places(model));
    let (rows, proteins) = parts(&rows, &proteins, 2);
    let residues = model.encode(&proteins)?;
    let width = rows.ids.dim(1)?;
    let label = |at: usize| {
        let (n, t) = (rows.lengths[at / width], at % width);
        t < n && t + 4 > n
    };
    let labelled: Vec<bool> = (0..rows.lengths.len() * width).map(label).collect();
    let tape = Tape::on();
    let (scores, _) = model.token_logprobs(&tape, &rows, residues.as_ref(), &labelled, 1.0)?;
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    Ok((loss.value().clone(), tape.backward(&loss)?))
}

fn n_places(model: &ProteinLlm) -> usize {
    model.protein.as_ref().unwrap().bridge.config().n_places()
}

fn batch_of(rows: &[Vec<u32>], padding: usize) -> (Tensor, Vec<usize>) {
    let width = rows.iter().map(Vec::len).max().unwrap() + padding;
    let fill =
        |row: &Vec<u32>| row.iter().copied().chain(std::iter::repeat(1)).take(width).collect::<Vec<_>>();
    let ids = Tensor::new(rows.iter().map(fill).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    (ids, rows.iter().map(Vec::len).collect())
}

/// Rows with one, no and two proteins.
fn example(n_places: usize) -> (Vec<Vec<u32>>, Vec<(usize, &'static str)>) {
    let protein = [&[START][..], &vec![SLOT; n_places], &[END]].concat();
    let one = [&tokens(1, 4)[..], &protein, &tokens(2, 7)].concat();
    let two = [&protein[..], &tokens(4, 2), &protein, &tokens(5, 5)].concat();
    (vec![one, tokens(3, 9), two], vec![(0, "MKTLLVAGRW"), (2, "ACDEF"), (2, "GGHIKLMNPQRSTVW")])
}

fn parts(rows: &[Vec<u32>], proteins: &[(usize, &str)], padding: usize) -> (Rows, Proteins) {
    let clean: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|&id| id.min(60)).collect()).collect();
    let (ids, lengths) = batch_of(&clean, padding);
    let encoded: Vec<Vec<u32>> = proteins.iter().map(|(_, residues)| encoder::encode(residues)).collect();
    let (protein_ids, protein_lengths) = batch_of(&encoded, padding);
    let owners = proteins.iter().map(|(row, _)| *row).collect();
    (Rows::new(ids, lengths), Proteins { ids: protein_ids, lengths: protein_lengths, rows: owners })
}

fn hidden(
    model: &ProteinLlm,
    rows: &[Vec<u32>],
    proteins: &[(usize, &str)],
    padding: usize,
) -> Vec<Vec<f32>> {
    let (rows, proteins) = match proteins.is_empty() {
        true => (parts(rows, &[(0, "M")], padding).0, None),
        false => {
            let (rows, proteins) = parts(rows, proteins, padding);
            (rows, model.encode(&proteins).unwrap())
        }
    };
    let out = model.hidden(&Tape::off(), &rows, proteins.as_ref()).unwrap();
    let real = |b: usize| {
        out.value().i((b, ..rows.lengths[b])).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    (0..rows.lengths.len()).map(real).collect()
}

#[test]
fn a_config_knows_how_many_weights_a_bridge_has() {
    for model in readers().map(model) {
        let bridge = &model.protein.as_ref().unwrap().bridge;
        assert_eq!(bridge.config().n_weights(), bridge.params().counts().0 as u64, "{:?}", bridge.config());
    }
}

#[test]
fn padding_and_company_change_no_bit() {
    for model in readers().map(model) {
        let (rows, proteins) = example(n_places(&model));
        let together = hidden(&model, &rows, &proteins, 0);
        assert_eq!(together, hidden(&model, &rows, &proteins, 3));
        for (b, row) in rows.iter().enumerate() {
            let own: Vec<(usize, &str)> = proteins.iter().filter(|p| p.0 == b).map(|p| (0, p.1)).collect();
            assert_eq!(together[b], hidden(&model, std::slice::from_ref(row), &own, 0)[0]);
        }
    }
}

#[test]
fn every_protein_of_a_prompt_changes_the_answer() {
    for model in readers().map(model) {
        let (rows, proteins) = example(n_places(&model));
        let before = hidden(&model, &rows, &proteins, 0);
        for changed in 0..proteins.len() {
            let mut proteins = proteins.clone();
            proteins[changed].1 = "WYWYWHH";
            let after = hidden(&model, &rows, &proteins, 0);
            for b in 0..rows.len() {
                assert_eq!(after[b] != before[b], b == proteins[changed].0, "row {b}, protein {changed}");
            }
        }
        // and their order counts
        let mut swapped = proteins.clone();
        (swapped[1].1, swapped[2].1) = (proteins[2].1, proteins[1].1);
        assert_ne!(hidden(&model, &rows, &swapped, 0)[2], before[2]);
    }
}

#[test]
fn the_first_vector_is_the_mean_and_the_last_that_of_the_site() -> Result<()> {
    let model = model(pool());
    let bridge = &model.protein.as_ref().unwrap().bridge;
    let residues = Var::constant(Tensor::randn(0f32, 1.0, (2, 11, 28), &Device::Cpu)?);
    let vectors = |residues: &Var, lengths: &[usize], sites: &[Option<usize>]| {
        bridge.forward(&Tape::off(), residues, lengths, sites)?.value().to_vec3::<f32>()
    };
    let whole = vectors(&residues, &[11, 7], &[None, None])?;
    let sited = vectors(&residues, &[11, 7], &[None, Some(4)])?;
    let alone = Var::constant(residues.value().i((1..2, 4..5))?.contiguous()?);
    assert_eq!((&whole[0], &whole[1][..2]), (&sited[0], &sited[1][..2]));
    for (x, y) in sited[1][2].iter().zip(&vectors(&alone, &[1], &[None])?[0][2]) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
    assert_ne!(sited[1][2], whole[1][2]);
    // the projections are linear, so the mean of values is the value of the mean
    let mean = Var::constant(residues.value().i((1..2, ..7))?.mean_keepdim(1)?.contiguous()?);
    for (x, y) in whole[1][0].iter().zip(&vectors(&mean, &[1], &[None])?[0][0]) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
    assert!(vectors(&residues, &[11, 7], &[None, Some(7)]).is_err());
    Ok(())
}

fn loss(model: &ProteinLlm) -> Result<(f32, crate::tape::Gradients)> {
    let (rows, proteins) = example(n_places(model));
    let (rows, proteins) = parts(&rows, &proteins, 0);
    let residues = model.encode(&proteins)?;
    let width = rows.ids.dim(1)?;
    let labelled: Vec<bool> = (0..3 * width)
        .map(|at| at % width + 4 >= rows.lengths[at / width] && at % width < rows.lengths[at / width])
        .collect();
    let tape = Tape::on();
    let (scores, places) = model.token_logprobs(&tape, &rows, residues.as_ref(), &labelled, 1.0)?;
    assert_eq!(places.len(), 12);
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    Ok((loss.value().to_scalar::<f32>()?, tape.backward(&loss)?))
}

#[test]
fn bridge_boundary_and_adapter_learn_together() -> Result<()> {
    for model in readers().map(model) {
        let params = model.params()?;
        for param in params.iter().filter(|p| p.name().contains("lora_B")) {
            param.update(|x| x.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).sin() * 0.1))?;
        }
        let (first, grads) = loss(&model)?;
        assert_all_trained(&params, &grads);
        assert!(grads.params.keys().any(|name| name == "boundary.weight"));
        let mut moments = Moments::new();
        for step in 1..=150 {
            let (_, grads) = loss(&model)?;
            params.trainable().try_for_each(|p| adam(p, &grads.params[&**p.name()], step, &mut moments))?;
        }
        let last = loss(&model)?.0;
        assert!(first > 2.0 && last < first / 4.0, "{first} {last}");
    }
    Ok(())
}

#[test]
fn samples_with_proteins_have_the_trainers_bits() -> Result<()> {
    for model in readers().map(model) {
        let (rows, proteins) = example(n_places(&model));
        let (batch, encoded) = parts(&rows, &proteins, 2);
        let residues = model.encode(&encoded)?;
        let prompts = model.prompts(&batch, residues.as_ref())?;
        let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
        let mut out =
            generate(&model.llm, &prompts, 2, 7, sampling, &[3], |i| ChaCha8Rng::seed_from_u64(i as u64))?;
        for completion in &mut out {
            // a sampled placeholder would ask for a protein
            let end = completion.tokens.iter().position(|&id| id >= START).unwrap_or(completion.tokens.len());
            completion.tokens.truncate(end);
        }
        let whole: Vec<Vec<u32>> =
            out.iter().enumerate().map(|(i, c)| [&rows[i / 2][..], &c.tokens].concat()).collect();
        let twice: Vec<(usize, &str)> = (0..6)
            .flat_map(|i| proteins.iter().filter(move |p| p.0 == i / 2).map(move |p| (i, p.1)))
            .collect();
        let (batch, encoded) = parts(&whole, &twice, 0);
        let residues = model.encode(&encoded)?;
        let width = batch.ids.dim(1)?;
        let labelled: Vec<bool> = (0..6 * width)
            .map(|at| (rows[at / width / 2].len()..whole[at / width].len()).contains(&(at % width)))
            .collect();
        let (scores, _) = model.token_logprobs(&Tape::on(), &batch, residues.as_ref(), &labelled, 1.0)?;
        let sampled: Vec<f32> = out.iter().flat_map(|c| c.logprobs[..c.tokens.len()].to_vec()).collect();
        assert!(sampled.len() > 12);
        assert_eq!(scores.logprobs.value().to_vec1::<f32>()?, sampled);
    }
    Ok(())
}

#[test]
fn an_encoder_learns_and_is_saved() -> Result<()> {
    let encoder = encoder();
    let (ids, lengths) = batch_of(&[encoder::encode("MKTLLVAGRW"), encoder::encode("ACDEF")], 0);
    let mut masked = ids.to_vec2::<u32>()?;
    (masked[0][3], masked[1][2]) = (encoder::MASK, encoder::MASK);
    let tape = Tape::on();
    let hidden = encoder.hidden(&tape, &Tensor::new(masked, &Device::Cpu)?, &lengths)?;
    let logits = encoder.masked_logits(&tape, &hidden, &[3, 12 + 2])?;
    let loss = ops::cross_entropy(&tape, &logits, &Tensor::new(&[11u8, 23], &Device::Cpu)?)?;
    let grads = tape.backward(&loss)?;
    assert_all_trained(encoder.params(), &grads);

    let folder = tempfile::tempdir()?;
    encoder.save(folder.path())?;
    let copy = Esm2::load(folder.path())?;
    assert_eq!(copy.config(), encoder.config());
    let off = Tape::off();
    let numbers = |e: &Esm2| e.hidden(&off, &ids, &lengths)?.value().flatten_all()?.to_vec1::<f32>();
    assert_eq!(numbers(&copy)?, numbers(&encoder)?);
    let long = Tensor::zeros((1, 65), candle_core::DType::U32, &Device::Cpu)?;
    assert!(encoder.hidden(&off, &long, &[65]).unwrap_err().to_string().contains("hint: crop"));
    Ok(())
}

#[test]
fn a_bridge_is_saved_beside_its_adapter() -> Result<()> {
    for model in readers().map(model) {
        let bridge = &model.protein.as_ref().unwrap().bridge;
        let folder = tempfile::tempdir()?;
        bridge.save(folder.path())?;
        let copy = Bridge::load(folder.path(), model.llm.embedding().value())?;
        let mut with_copy = model.clone();
        with_copy.protein.as_mut().unwrap().bridge = copy;
        let (rows, proteins) = example(n_places(&model));
        assert_eq!(hidden(&with_copy, &rows, &proteins, 0), hidden(&model, &rows, &proteins, 0));
    }
    Ok(())
}

#[test]
fn chats_behind_each_other_give_the_bits_of_chats_in_rows() -> Result<()> {
    let model = model(pool());
    let (rows, proteins) = example(n_places(&model));
    let apart = hidden(&model, &rows, &proteins, 0);
    let (mut line, mut encoded) = parts(&[rows.concat()], &proteins, 0);
    line.layout = Layout::Documents(vec![rows.iter().map(Vec::len).collect()]);
    encoded.rows = vec![0; proteins.len()];
    let residues = model.encode(&encoded)?;
    let packed =
        model.hidden(&Tape::off(), &line, residues.as_ref())?.value().flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(packed, apart.concat());
    let error =
        |model: &ProteinLlm, line: &Rows| model.hidden(&Tape::off(), line, None).unwrap_err().to_string();
    let text = parts(&[tokens(1, 9)], &[(0, "M")], 0).0;
    let [_, _, flamingo] = readers().map(self::model);
    assert!(
        error(&flamingo, &Rows { layout: Layout::Documents(vec![vec![4, 5]]), ..text.clone() })
            .contains("hint: no packing")
    );
    assert!(
        error(&model, &Rows { layout: Layout::Documents(vec![vec![4, 4]]), ..text }).contains("documents")
    );
    Ok(())
}

#[test]
fn answers_behind_one_prompt_give_the_bits_of_chats_in_rows() -> Result<()> {
    for kind in readers() {
        let model = model(kind);
        let (rows, proteins) = example(n_places(&model));
        let (prompt, proteins) =
            (&rows[0], &proteins.iter().filter(|p| p.0 == 0).copied().collect::<Vec<_>>()[..]);
        let answers = [tokens(3, 5), tokens(4, 1), tokens(5, 7)];
        let tree = [prompt.clone(), answers.concat()].concat();
        let (mut tree, encoded) = parts(&[tree], proteins, 0);
        let lengths = [prompt].into_iter().chain(&answers).map(Vec::len).collect();
        tree.layout = Layout::Trees(vec![lengths]);
        let residues = model.encode(&encoded)?;
        let width = model.llm.config().hidden_size;
        let together = model.hidden(&Tape::off(), &tree, residues.as_ref())?;
        let together = together.value().flatten_all()?.to_vec1::<f32>()?;
        let mut start = prompt.len();
        for answer in &answers {
            let alone = hidden(&model, &[[&prompt[..], answer].concat()], proteins, 0).concat();
            let (trunk, branch) = alone.split_at(prompt.len() * width);
            assert_eq!(together[..prompt.len() * width], *trunk);
            assert_eq!(together[start * width..(start + answer.len()) * width], *branch);
            start += answer.len();
        }
    }
    Ok(())
}
