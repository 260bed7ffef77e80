//! WebSocket by RFC 6455, without sockets.

use tincan::sha1;

#[test]
fn sha1_digests_as_its_standard_has_it() {
    let hex = |message: &[u8]| sha1::digest(message).iter().map(|b| format!("{b:02x}")).collect::<String>();
    // RFC 3174 §7.3, and nothing at all.
    let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (message, digest) in [
        (b"".to_vec(), "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc".to_vec(), "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (two_blocks.to_vec(), "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
        (b"a".repeat(1_000_000), "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        (b"01234567".repeat(80), "dea356a2cddd90c7a7ecedc5ebb563934f460452"),
    ] {
        assert_eq!(hex(&message), digest);
    }
    // Every length over several blocks, so that the padding falls on every place; computed with Python's hashlib.
    let digests: Vec<u8> = (0..300).flat_map(|n| sha1::digest(&(0..n).map(|i| i as u8).collect::<Vec<_>>())).collect();
    assert_eq!(hex(&digests), "7261d91c9ffd63ee8e68156d4d57e733d4ad7243");
}
