/* The program's entry. */

.text
.global start
start:
    xor %ebp, %ebp
    call main
    mov $0, %eax /* SYS_EXIT */
    syscall
    ud2

.section .note.GNU-stack, "", @progbits
