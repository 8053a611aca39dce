//! Tests of the format: what a kernel writes, and what none would.

use super::*;

const NAME: usize = 48;

fn header(words: [u32; 6]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn stat(flags: u32, exponent: i16, size: u16, offset: u32, name: &str) -> Vec<u8> {
    let mut bytes = flags.to_ne_bytes().to_vec();
    bytes.extend(exponent.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(offset.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME));
    bytes
}

/// Seconds are unit 2, cumulative is kind 0, a log histogram kind 4.
fn file() -> Vec<u8> {
    let stats = [
        stat(0, 0, 1, 0, "exits"),
        stat(2 << 4, -9, 1, 8, "halt_wait_ns"),
        stat(2 << 4 | 4, -9, 3, 16, "halt_wait_hist"),
        stat(1, 0, 1, 40, "guest_mode"),
        // In another unit than ours.
        stat(2 << 4, -6, 1, 48, "halt_poll_fail_ns"),
        // Of a kind that is not invented yet.
        stat(9, 0, 1, 56, "future"),
    ];
    let at = 24 + NAME;
    let count = u32::try_from(stats.len()).unwrap();
    let data = at + stats.concat().len();
    let mut file = header([0, 48, count, 24, u32::try_from(at).unwrap(), u32::try_from(data).unwrap()]);
    file.extend(b"kvm-4711/vcpu-0".iter().copied().chain(std::iter::repeat(0)).take(NAME));
    file.extend(stats.concat());
    for value in [7_u64, 1234, 1, 2, 3, 1, 9, 9] {
        file.extend(value.to_ne_bytes());
    }
    file
}

fn reader(file: &[u8]) -> impl FnMut(&mut [u8], u64) -> io::Result<()> {
    move |buffer, at| {
        let at = usize::try_from(at).unwrap();
        let bytes = file.get(at..at + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn known_statistics_are_found_by_name_kind_and_unit() {
    let file = file();
    let layout = Layout::read(reader(&file)).unwrap();
    assert_eq!(layout.stats.len(), 5, "{layout:?}");
    let data = &file[usize::try_from(layout.data_offset).unwrap()..];
    let sample = layout.vcpu(data);
    let expected = KvmVcpuSample {
        exits: Some(7),
        halt_wait_ns: Some(1234),
        halt_wait_histogram: Some(vec![1, 2, 3]),
        ..KvmVcpuSample::default()
    };
    assert_eq!(sample, expected);
    assert_eq!(layout.stats[3].kind, StatKind::Instant);
}

#[test]
fn impossible_files_are_refused() {
    let good = file();
    let word = |n: usize, value: u32| {
        let mut file = good.clone();
        file[n * 4..n * 4 + 4].copy_from_slice(&value.to_ne_bytes());
        Layout::read(reader(&file)).unwrap_err().to_string()
    };
    for (n, value) in [(1, 0), (1, 1 << 20), (2, 0), (2, u32::MAX), (4, u32::MAX), (5, u32::MAX)] {
        assert!(word(n, value).contains("impossible"), "word {n} = {value}");
    }
    // More descriptors than there are.
    assert!(Layout::read(reader(&good[..200])).is_err());
    assert!(Layout::read(reader(&good[..10])).is_err());
    // A statistic at the end of the world, of no size, without a name.
    for (offset, size, name) in
        [(u32::MAX - 7, 1, "exits"), (0, 0, "exits"), (3, 1, "exits"), (0, u16::MAX, "exits"), (0, 1, "")]
    {
        let mut file = good.clone();
        file[24 + NAME..24 + NAME + 16 + NAME].copy_from_slice(&stat(0, 0, size, offset, name));
        assert!(Layout::read(reader(&file)).is_err(), "{offset} {size} {name}");
    }
}

proptest::proptest! {
    /// Whatever is in the file, it is refused or read within bounds.
    #[test]
    fn garbage_is_bounded(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4096), count in 0_u32..40, at in 0_u32..200) {
        // Half of the time with a header that promises something.
        if bytes.len() >= 24 && bytes[0] & 1 == 0 {
            bytes[..24].copy_from_slice(&header([0, 48, count, 24, at, at]));
        }
        if let Ok(layout) = Layout::read(reader(&bytes)) {
            proptest::prop_assert!(layout.data_length <= MOST_DATA && layout.stats.len() <= MOST_STATISTICS);
            let sample = layout.vcpu(&bytes);
            let _ = layout.stats.iter().map(|stat| stat.values(&bytes)).collect::<Vec<_>>();
            proptest::prop_assert!(sample.halt_wait_histogram.is_none_or(|counts| counts.len() <= MOST_DATA / 8));
        }
    }

    /// A good file with a byte changed.
    #[test]
    fn one_flipped_byte_is_bounded(at in 0_usize..400, value in proptest::num::u8::ANY) {
        let mut file = file();
        let at = at % file.len();
        file[at] = value;
        if let Ok(layout) = Layout::read(reader(&file)) {
            let data = usize::try_from(layout.data_offset).unwrap();
            layout.vcpu(file.get(data..).unwrap_or_default());
        }
    }
}
