//! Any safetensors file: what we accept, the reference implementation accepts, with the same tensors at the same places.

#![no_main]

mod folder;

use genai_checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    // The file as it is, or a header whose length is right and whose data is as long as the second byte says.
    let file = match (mode % 2, rest.split_first()) {
        (0, _) => rest.to_vec(),
        (_, Some((data, header))) => {
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(header);
            file.extend(std::iter::repeat_n(1, usize::from(*data)));
            file
        }
        (_, None) => return,
    };
    let folder = folder::with(&[("config.json", b"{}"), ("model.safetensors", &file)]);
    match Checkpoint::open(&folder) {
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "control characters in {said:?}");
            assert!(said.len() < 1 << 16, "a message of {} bytes", said.len());
        }
        Ok(checkpoint) => {
            let reference = SafeTensors::deserialize(&file).expect("the reference accepts what we accept");
            assert_eq!(reference.len(), checkpoint.tensors().len());
            for tensor in checkpoint.tensors() {
                let view = reference.tensor(&tensor.name).expect("the reference has the tensor");
                assert!(view.shape().iter().map(|dim| *dim as u64).eq(tensor.shape.iter().copied()));
                let mut bytes = vec![0; tensor.byte_len() as usize];
                checkpoint.read(tensor, 0, &mut bytes).expect("the data is there");
                assert_eq!(bytes, view.data(), "tensor {:?}", tensor.name);
            }
        }
    }
});
