//! Names of the reasons for which a vcpu leaves its guest: numbers of the hardware (Intel SDM volume 3, appendix C; AMD
//! APM volume 2, appendix C), named as KVM's trace events name them.

/// Instruction set of hardware virtualisation, as KVM's trace events number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Intel.
    Vmx,
    /// AMD.
    Svm,
    /// Not told, or one that this version does not know.
    Unknown,
}

impl Isa {
    /// From the field `isa` of `kvm:kvm_exit`.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Vmx,
            2 => Self::Svm,
            _ => Self::Unknown,
        }
    }

    /// `vmx`, `svm` or nothing.
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Vmx => Some("vmx"),
            Self::Svm => Some("svm"),
            Self::Unknown => None,
        }
    }
}

/// Bit of a VMX reason that says that the entry itself failed.
const FAILED_ENTRY: u32 = 1 << 31;

/// The name of a reason; of an unknown one its number in hexadecimal.
#[must_use]
pub fn exit_reason(isa: Isa, reason: u32) -> String {
    let (table, number) = match isa {
        // The upper half holds flags.
        Isa::Vmx => (VMX, reason & 0xffff),
        Isa::Svm => (SVM, reason),
        Isa::Unknown => (&[][..], reason),
    };
    let known = table.binary_search_by_key(&number, |(number, _)| *number).ok();
    let name = known.map_or_else(|| svm_block(isa, reason), |at| table[at].1.to_owned());
    if isa == Isa::Vmx && reason & FAILED_ENTRY != 0 { format!("{name} (entry failed)") } else { name }
}

/// Registers and exceptions, which SVM numbers in blocks.
fn svm_block(isa: Isa, reason: u32) -> String {
    match reason {
        _ if isa != Isa::Svm => format!("{reason:#x}"),
        0x00..=0x0f => format!("read_cr{reason}"),
        0x10..=0x1f => format!("write_cr{}", reason - 0x10),
        0x20..=0x2f => format!("read_dr{}", reason - 0x20),
        0x30..=0x3f => format!("write_dr{}", reason - 0x30),
        0x40..=0x5f => format!("exception_{}", reason - 0x40),
        0x90..=0x9f => format!("write_cr{}_trap", reason - 0x90),
        _ => format!("{reason:#x}"),
    }
}

const VMX: &[(u32, &str)] = &[
    (0, "EXCEPTION_NMI"),
    (1, "EXTERNAL_INTERRUPT"),
    (2, "TRIPLE_FAULT"),
    (3, "INIT_SIGNAL"),
    (4, "SIPI_SIGNAL"),
    (7, "INTERRUPT_WINDOW"),
    (8, "NMI_WINDOW"),
    (9, "TASK_SWITCH"),
    (10, "CPUID"),
    (12, "HLT"),
    (13, "INVD"),
    (14, "INVLPG"),
    (15, "RDPMC"),
    (16, "RDTSC"),
    (18, "VMCALL"),
    (19, "VMCLEAR"),
    (20, "VMLAUNCH"),
    (21, "VMPTRLD"),
    (22, "VMPTRST"),
    (23, "VMREAD"),
    (24, "VMRESUME"),
    (25, "VMWRITE"),
    (26, "VMOFF"),
    (27, "VMON"),
    (28, "CR_ACCESS"),
    (29, "DR_ACCESS"),
    (30, "IO_INSTRUCTION"),
    (31, "MSR_READ"),
    (32, "MSR_WRITE"),
    (33, "INVALID_STATE"),
    (34, "MSR_LOAD_FAIL"),
    (36, "MWAIT_INSTRUCTION"),
    (37, "MONITOR_TRAP_FLAG"),
    (39, "MONITOR_INSTRUCTION"),
    (40, "PAUSE_INSTRUCTION"),
    (41, "MCE_DURING_VMENTRY"),
    (43, "TPR_BELOW_THRESHOLD"),
    (44, "APIC_ACCESS"),
    (45, "EOI_INDUCED"),
    (46, "GDTR_IDTR"),
    (47, "LDTR_TR"),
    (48, "EPT_VIOLATION"),
    (49, "EPT_MISCONFIG"),
    (50, "INVEPT"),
    (51, "RDTSCP"),
    (52, "PREEMPTION_TIMER"),
    (53, "INVVPID"),
    (54, "WBINVD"),
    (55, "XSETBV"),
    (56, "APIC_WRITE"),
    (57, "RDRAND"),
    (58, "INVPCID"),
    (59, "VMFUNC"),
    (60, "ENCLS"),
    (61, "RDSEED"),
    (62, "PML_FULL"),
    (63, "XSAVES"),
    (64, "XRSTORS"),
    (67, "UMWAIT"),
    (68, "TPAUSE"),
    (74, "BUS_LOCK"),
    (75, "NOTIFY"),
    (77, "TDCALL"),
    (84, "MSR_READ_IMM"),
    (85, "MSR_WRITE_IMM"),
];

const SVM: &[(u32, &str)] = &[
    (0x60, "interrupt"),
    (0x61, "nmi"),
    (0x62, "smi"),
    (0x63, "init"),
    (0x64, "vintr"),
    (0x65, "cr0_sel_write"),
    (0x66, "read_idtr"),
    (0x67, "read_gdtr"),
    (0x68, "read_ldtr"),
    (0x69, "read_tr"),
    (0x6a, "write_idtr"),
    (0x6b, "write_gdtr"),
    (0x6c, "write_ldtr"),
    (0x6d, "write_tr"),
    (0x6e, "rdtsc"),
    (0x6f, "rdpmc"),
    (0x70, "pushf"),
    (0x71, "popf"),
    (0x72, "cpuid"),
    (0x73, "rsm"),
    (0x74, "iret"),
    (0x75, "swint"),
    (0x76, "invd"),
    (0x77, "pause"),
    (0x78, "hlt"),
    (0x79, "invlpg"),
    (0x7a, "invlpga"),
    (0x7b, "io"),
    (0x7c, "msr"),
    (0x7d, "task_switch"),
    (0x7e, "ferr_freeze"),
    (0x7f, "shutdown"),
    (0x80, "vmrun"),
    (0x81, "hypercall"),
    (0x82, "vmload"),
    (0x83, "vmsave"),
    (0x84, "stgi"),
    (0x85, "clgi"),
    (0x86, "skinit"),
    (0x87, "rdtscp"),
    (0x88, "icebp"),
    (0x89, "wbinvd"),
    (0x8a, "monitor"),
    (0x8b, "mwait"),
    (0x8d, "xsetbv"),
    (0x8f, "write_efer_trap"),
    (0xa2, "invpcid"),
    (0xa5, "buslock"),
    (0xa6, "idle-halt"),
    (0x400, "npf"),
    (0x401, "avic_incomplete_ipi"),
    (0x402, "avic_unaccelerated_access"),
    (0x403, "vmgexit"),
    (0x8000_0001, "vmgexit_mmio_read"),
    (0x8000_0002, "vmgexit_mmio_write"),
    (0x8000_0003, "vmgexit_nmi_complete"),
    (0x8000_0004, "vmgexit_ap_hlt_loop"),
    (0x8000_0005, "vmgexit_ap_jump_table"),
    (0x8000_0010, "vmgexit_page_state_change"),
    (0x8000_0011, "vmgexit_guest_request"),
    (0x8000_0012, "vmgexit_ext_guest_request"),
    (0x8000_0013, "vmgexit_ap_creation"),
    (0x8000_fffd, "vmgexit_hypervisor_feature"),
    (0xffff_ffff, "invalid_guest_state"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_the_same_number_means_different_things() {
        for table in [VMX, SVM] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
        assert_eq!(exit_reason(Isa::Vmx, 12), "HLT");
        assert_eq!(exit_reason(Isa::Svm, 12), "read_cr12");
        assert_eq!(exit_reason(Isa::Svm, 0x78), "hlt");
        assert_eq!(exit_reason(Isa::Svm, 0x400), "npf");
        assert_eq!(exit_reason(Isa::Svm, u32::MAX), "invalid_guest_state");
        assert_eq!(exit_reason(Isa::Svm, 0x4e), "exception_14");
        assert_eq!(exit_reason(Isa::Vmx, 33 | FAILED_ENTRY), "INVALID_STATE (entry failed)");
        assert_eq!(exit_reason(Isa::Vmx, 999), "0x3e7");
        assert_eq!(exit_reason(Isa::Unknown, 12), "0xc");
        assert_eq!(Isa::from_number(2).as_str(), Some("svm"));
    }
}
