/* From the loader's identity map to kernel_main in the kernel's half of the address space. */

#include "layout.h"

.set PRESENT, 0x1
.set WRITABLE, 0x2
.set LARGE, 0x80

.section .boot, "ax"
.code64

/* Runs at its physical address: everything is reached relative to RIP, which gives physical addresses. */
.global boot_entry
boot_entry:
    cli
    cld
    mov %rdi, %r15

    /* The low 4 GiB in 2 MiB pages. */
    lea boot_directories(%rip), %rbx
    mov %rbx, %rdi
    mov $(PRESENT | WRITABLE | LARGE), %eax
    mov $2048, %ecx
1:  mov %rax, (%rdi)
    add $0x200000, %rax
    add $8, %rdi
    dec %ecx
    jnz 1b

    /* They are the start of the direct map, and its first two GiB the kernel's at the top. */
    lea boot_direct(%rip), %rdx
    lea boot_top(%rip), %rsi
    lea (PRESENT | WRITABLE)(%rbx), %rax
    mov %rax, 0x000(%rdx)
    mov %rax, 0xff0(%rsi)
    add $0x1000, %rax
    mov %rax, 0x008(%rdx)
    mov %rax, 0xff8(%rsi)
    add $0x1000, %rax
    mov %rax, 0x010(%rdx)
    add $0x1000, %rax
    mov %rax, 0x018(%rdx)

    /* The identity map goes again as soon as RIP is high. */
    lea kernel_pml4(%rip), %rdi
    lea (PRESENT | WRITABLE)(%rdx), %rax
    mov %rax, (%rdi)
    mov %rax, (8 * DIRECT_MAP_SLOT)(%rdi)
    lea (PRESENT | WRITABLE)(%rsi), %rax
    mov %rax, (8 * 511)(%rdi)
    lea boot_devices(%rip), %rax
    or $(PRESENT | WRITABLE), %rax
    mov %rax, (8 * (DIRECT_MAP_SLOT + 1))(%rdi)
    mov %rdi, %cr3
    mov $1f, %rax
    jmp *%rax

.text
1:  movq $0, kernel_pml4(%rip)
    mov %cr3, %rax
    mov %rax, %cr3
    lea boot_stack_top(%rip), %rsp
    xor %ebp, %ebp
    mov %r15, %rdi
    call kernel_main
2:  hlt
    jmp 2b

/* The user program, an ELF file. */
.section .rodata
.balign 4096
.global user_image
user_image:
    .incbin USER_IMAGE
.balign 8

.bss
.balign 4096
.global kernel_pml4, boot_directories, boot_stack_top
kernel_pml4:
    .skip 4096
boot_direct:
    .skip 4096
boot_top:
    .skip 4096
/* 64-bit BARs, from 512 GiB. */
boot_devices:
    .skip 4096
boot_directories:
    .skip 4 * 4096
boot_stack:
    .skip 4 * 4096
boot_stack_top:

.section .note.GNU-stack, "", @progbits
