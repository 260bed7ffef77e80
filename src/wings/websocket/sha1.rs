//! SHA-1 (FIPS 180-4 §6.1.2, RFC 3174), for the WebSocket handshake alone. Pure.
//!
//! Nothing here rests on SHA-1 being hard to break, for the handshake does not (RFC 6455 §10.8).

/// The digest of a message.
pub fn digest(message: &[u8]) -> Vec<u8> {
    // Padding (FIPS 180-4 §5.1.1): a one bit, zeros, and the count of bits, up to whole blocks.
    let mut padded = [message, &[0x80]].concat();
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());

    let mut hash = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.as_chunks().0.as_chunks().0 {
        // Of the message schedule only the next 16 words are kept.
        let mut words: [u32; 16] = block.map(u32::from_be_bytes);
        let mut state = hash;
        for round in 0..80 {
            let [a, b, c, d, e] = state;
            let (mix, constant) = match round {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let sum = [mix, constant, e, words[0]].into_iter().fold(a.rotate_left(5), u32::wrapping_add);
            state = [sum, a, b.rotate_left(30), c, d];
            words[0] = (words[13] ^ words[8] ^ words[2] ^ words[0]).rotate_left(1);
            words.rotate_left(1);
        }
        for (sum, word) in hash.iter_mut().zip(state) {
            *sum = sum.wrapping_add(word);
        }
    }
    hash.map(u32::to_be_bytes).concat()
}
