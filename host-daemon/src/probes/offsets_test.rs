//! The resolver against BTF built here: what a kernel of each age would say, and what must be refused.

use super::*;

const INT: u32 = 1;
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const FUNC_PROTO: u32 = 13;

/// Just enough of a BTF writer (Documentation/bpf/btf.rst).
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0 }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at.try_into().unwrap()
    }

    fn put(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.types.extend(word.to_ne_bytes()));
    }

    fn add(&mut self, kind: u32, name: &str, vlen: usize, size_or_type: u32) -> u32 {
        let name = self.name(name);
        self.put(&[name, kind << 24 | u32::try_from(vlen).unwrap(), size_or_type]);
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        let id = self.add(INT, name, 0, bytes);
        self.put(&[bytes * 8]);
        id
    }

    fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let id = self.add(STRUCT, name, members.len(), size);
        for &(name, ty, byte) in members {
            let name = self.name(name);
            self.put(&[name, ty, byte * 8]);
        }
        id
    }

    fn tracepoint(&mut self, arguments: &[u32]) {
        let proto = self.add(FUNC_PROTO, "", arguments.len(), 0);
        arguments.iter().for_each(|&ty| self.put(&[0, ty]));
        let pointer = self.add(PTR, "", 0, proto);
        self.add(TYPEDEF, "btf_trace_sched_switch", 0, pointer);
    }

    fn finish(self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut out = Vec::new();
        out.extend(0xeb9f_u16.to_ne_bytes());
        out.extend([1, 0]);
        [24, 0, types, types, strings].iter().for_each(|word: &u32| out.extend(word.to_ne_bytes()));
        out.extend(self.types);
        out.extend(self.strings);
        out
    }
}

/// The parts that tests vary; the rest is alike in every kernel.
struct Kernel {
    state: &'static str,
    state_bytes: u32,
    start: &'static str,
    info: bool,
    pid_bytes: u32,
    arguments: fn(task: u32, bool_: u32, uint: u32) -> Vec<u32>,
    second_task: Option<u32>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            state: "__state",
            state_bytes: 4,
            start: "start_boottime",
            info: true,
            pid_bytes: 4,
            arguments: |task, bool_, uint| vec![task, bool_, task, task, uint],
            second_task: None,
        }
    }
}

fn resolve_of(kernel: &Kernel) -> Result<Offsets, OffsetError> {
    let mut btf = Writer::new();
    let uint = btf.int("unsigned int", 4);
    let long = btf.int("unsigned long", 8);
    let bool_ = btf.int("_Bool", 1);
    let pid = btf.int("pid", kernel.pid_bytes);
    let state_int = btf.int("state", kernel.state_bytes);
    let u64_ = btf.add(TYPEDEF, "u64", 0, long);
    let state = btf.add(VOLATILE, "", 0, state_int);
    let entity = btf.structure(
        "sched_entity",
        64,
        &[("load", u64_, 0), ("sum_exec_runtime", u64_, 40), ("nr_migrations", u64_, 56)],
    );
    let info = btf.structure(
        "sched_info",
        32,
        &[("pcount", long, 0), ("run_delay", long, 8), ("last_arrival", u64_, 16)],
    );
    // As with CONFIG_RANDSTRUCT: most of the fields sit in an anonymous struct.
    let inner = btf.structure(
        "",
        256,
        &[("se", entity, 16), ("pid", pid, 100), ("tgid", uint, 104), (kernel.start, u64_, 208)],
    );
    let mut members = vec![(kernel.state, state, 24), ("", inner, 64)];
    if kernel.info {
        members.push(("sched_info", info, 400));
    }
    let task = btf.structure("task_struct", 4096, &members);
    if let Some(pid_at) = kernel.second_task {
        let mut members = members.clone();
        members.insert(0, ("pid", pid, pid_at));
        btf.structure("task_struct", 4096, &members);
    }
    let task = btf.add(PTR, "", 0, task);
    btf.tracepoint(&(kernel.arguments)(task, bool_, uint));
    resolve(&btf.finish())
}

#[test]
fn finds_nested_and_anonymous_fields() {
    let expected = Offsets {
        pid: 164,
        tgid: 168,
        state: 24,
        start: 272,
        exec_runtime: 120,
        migrations: 136,
        run_delay: 408,
        pcount: 400,
        last_arrival: 416,
        switch_has_state: true,
    };
    assert_eq!(resolve_of(&Kernel::default()).unwrap(), expected);
}

#[test]
fn old_names_and_the_old_tracepoint() {
    let old = Kernel {
        state: "state",
        state_bytes: 8,
        start: "real_start_time",
        arguments: |task, bool_, _| vec![task, bool_, task, task],
        ..Kernel::default()
    };
    let found = resolve_of(&old).unwrap();
    assert_eq!((found.state, found.start, found.switch_has_state), (24, 272, false));
}

#[test]
fn a_missing_field_names_its_option() {
    let err = resolve_of(&Kernel { info: false, ..Kernel::default() }).unwrap_err();
    assert!(err.to_string().contains("CONFIG_SCHED_INFO"), "{err}");
    let err = resolve_of(&Kernel { state: "status", ..Kernel::default() }).unwrap_err();
    assert!(matches!(err, OffsetError::NoField { field: "__state" }), "{err}");
}

#[test]
fn another_size_is_refused() {
    let err = resolve_of(&Kernel { pid_bytes: 8, ..Kernel::default() }).unwrap_err();
    assert!(matches!(err, OffsetError::Shape("pid")), "{err}");
}

#[test]
fn two_layouts_of_one_name_are_refused_and_two_copies_are_not() {
    let err = resolve_of(&Kernel { second_task: Some(8), ..Kernel::default() }).unwrap_err();
    assert!(matches!(err, OffsetError::Ambiguous("pid")), "{err}");
    assert!(resolve_of(&Kernel { second_task: Some(164), ..Kernel::default() }).is_ok());
}

#[test]
fn the_state_in_the_middle_is_refused() {
    let odd =
        Kernel { arguments: |task, bool_, uint| vec![task, bool_, uint, task, task], ..Kernel::default() };
    assert!(matches!(resolve_of(&odd), Err(OffsetError::Arguments)));
}

#[test]
fn garbage_is_an_error() {
    assert!(matches!(resolve(b"no BTF at all, only text"), Err(OffsetError::Btf(_))));
}
