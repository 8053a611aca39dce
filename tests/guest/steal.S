# Boot sector of the lab's smallest KVM guest. Every vcpu registers its steal-time page with the host (MSR_KVM_STEAL_TIME,
# the interface behind the guest's own /proc/stat), and then burns CPU, or sleeps between timer interrupts.
#
# The page of the vcpu with APIC id N is at 0xa000 + 64 * N; the host reads it from the guest's memory. All code is 16-bit,
# so that it also runs under back ends of KVM that start guests by emulation.
        .code16
        .set    STEAL, 0xa000
        .set    AP, 0x8000              # where a started vcpu begins: SIPI vector 8
        .globl  _start
_start: cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    $0x7c00 + (every - _start), %si
        movw    $AP, %di
        movw    $(end - every), %cx
        rep movsb
        # INIT and SIPI for all others, through the x2APIC: the memory-mapped one is out of reach of real mode.
        movl    $0x1b, %ecx
        rdmsr
        orw     $0xc00, %ax
        wrmsr
        movl    $0x830, %ecx
        xorl    %edx, %edx
        movl    $0xc4500, %eax
        wrmsr
        movw    $2000, %cx
1:      inb     $0x80, %al
        loop    1b
        movl    $0x830, %ecx
        xorl    %edx, %edx
        movl    $0xc4600 + (AP >> 12), %eax
        wrmsr
        ljmp    $0, $AP

# Copied to AP; everything in it is relative.
every:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movl    $0x1b, %ecx
        rdmsr
        orw     $0xc00, %ax
        wrmsr
        movl    $0x802, %ecx            # own APIC id
        rdmsr
        shll    $6, %eax
        addl    $STEAL + 1, %eax        # bit 0: on
        xorl    %edx, %edx
        movl    $0x4b564d03, %ecx       # MSR_KVM_STEAL_TIME
        wrmsr
        inb     $0x80, %al              # an exit: the host writes the page on the way back
        cmpb    $0, 0x7c00 + (sleeps - _start)
        jne     2f
1:      jmp     1b
        # A timer interrupt each 200 us, the shortest that KVM gives, so that halts are short enough to be polled through.
2:      movw    $AP + (tick - every), 8 * 4
        movw    $0, 8 * 4 + 2
        movb    $0x34, %al
        outb    %al, $0x43
        movb    $238, %al
        outb    %al, $0x40
        xorb    %al, %al
        outb    %al, $0x40
        sti
1:      hlt
        jmp     1b
tick:   pushw   %ax
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
        iretw
end:
        .org    0x1fd
sleeps: .byte   0                       # the test sets this to 1
        .word   0xaa55
