/* Entries of traps and system calls, and the switch from one kernel stack to another. */

.macro save_registers
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
.endm

.macro restore_registers
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
.endm

.text

/* One entry of 16 bytes for each vector; those without an error code push a zero. */
.balign 16
.global trap_entries
trap_entries:
.set vector, 0
.rept 256
    .balign 16
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
.endr

trap_common:
    save_registers
    cld
    mov %rsp, %rdi
    call trap
.global trap_return
trap_return:
    restore_registers
    add $16, %rsp
    iretq

.global system_call_entry
system_call_entry:
    mov %rsp, user_stack(%rip)
    mov kernel_stack(%rip), %rsp
    push $0x1b
    push user_stack(%rip)
    push %r11
    push $0x23
    push %rcx
    push $0
    push $256
    save_registers
    mov %rsp, %rdi
    call system_call
    restore_registers
    mov 40(%rsp), %rsp
    sysretq

/* void switch_stack(u64 *old_rsp, u64 new_rsp) */
.global switch_stack
switch_stack:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

.bss
.balign 8
.global kernel_stack
kernel_stack:
    .skip 8
user_stack:
    .skip 8

.section .note.GNU-stack, "", @progbits
