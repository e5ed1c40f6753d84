/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where unfixed PLT entries lead.
 *
 * PLT0 of a converted library pushes the record and jumps here; the entry before it pushed the number
 * of its relocation. So on entry
 *      0(%rsp)  the record
 *      8(%rsp)  the number of the relocation
 *     16(%rsp)  the return address of the call
 * The target must find every register as the caller left it, but for %r11 (System V ABI for x86-64,
 * section 5.2: only %r11 is free in a PLT), and the stack as if it had been called directly: this ends in a
 * jump, so calls and returns stay paired for the processor's return stack and for shadow stacks.
 */
#include "vectors.h"

    .text

    .globl  mapscratch_plt_entry
    .type   mapscratch_plt_entry, @function
    .p2align 6
mapscratch_plt_entry:
    .cfi_startproc
    .cfi_def_cfa_offset 24
    endbr64
    pushq   %rax                    /* how many vector registers a variadic function is given */
    .cfi_adjust_cfa_offset 8
    pushq   %rcx
    .cfi_adjust_cfa_offset 8
    pushq   %rdx
    .cfi_adjust_cfa_offset 8
    pushq   %rsi
    .cfi_adjust_cfa_offset 8
    pushq   %rdi
    .cfi_adjust_cfa_offset 8
    pushq   %r8
    .cfi_adjust_cfa_offset 8
    pushq   %r9
    .cfi_adjust_cfa_offset 8
    pushq   %r10                    /* the static chain */
    .cfi_adjust_cfa_offset 8
    subq    $8, %rsp                /* 16 bytes of alignment for the call */
    .cfi_adjust_cfa_offset 8
    cld
    movq    72(%rsp), %rdi
    movl    80(%rsp), %esi
    call    resolve_entry
    movq    %rax, %r11
    addq    $8, %rsp
    .cfi_adjust_cfa_offset -8
    popq    %r10
    .cfi_adjust_cfa_offset -8
    popq    %r9
    .cfi_adjust_cfa_offset -8
    popq    %r8
    .cfi_adjust_cfa_offset -8
    popq    %rdi
    .cfi_adjust_cfa_offset -8
    popq    %rsi
    .cfi_adjust_cfa_offset -8
    popq    %rdx
    .cfi_adjust_cfa_offset -8
    popq    %rcx
    .cfi_adjust_cfa_offset -8
    popq    %rax
    .cfi_adjust_cfa_offset -8
    addq    $16, %rsp
    .cfi_adjust_cfa_offset -16
    jmp     *%r11
    .cfi_endproc
    .size   mapscratch_plt_entry, .-mapscratch_plt_entry

/*
 * uintptr_t call_keeping_vectors(function, first, second): calls function(first, second), and vector
 * and mask registers are as before. The resolver itself is compiled to use none; the dynamic linker
 * and functions that it calls (IFUNC resolvers) may.
 *
 * The layout is the processor's (Intel SDM volume 1, chapter 13). Components: SSE, AVX, bounds, AVX-512;
 * those that a call may carry, as in glibc's own trampoline.
 */
#define VECTOR_COMPONENTS   0xee
#define HEADER              512

    .globl  call_keeping_vectors
    .hidden call_keeping_vectors
    .type   call_keeping_vectors, @function
    .p2align 4
call_keeping_vectors:
    .cfi_startproc
    endbr64
    pushq   %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    movq    %rsp, %rbx
    .cfi_def_cfa_register %rbx
    pushq   %r12
    .cfi_offset %r12, -24
    movl    vector_save_method(%rip), %r12d
    andq    $-64, %rsp
    subq    $VECTOR_STATE_BYTES, %rsp
    movq    %rdi, %r8
    movq    %rsi, %rdi
    movq    %rdx, %rsi
    xorl    %edx, %edx
    testl   %r12d, %r12d
    jz      .Lsave_legacy
    /* Both instructions leave parts of the header as they were, and the restore wants zeros there. */
    movq    %rdx, HEADER+0x00(%rsp)
    movq    %rdx, HEADER+0x08(%rsp)
    movq    %rdx, HEADER+0x10(%rsp)
    movq    %rdx, HEADER+0x18(%rsp)
    movq    %rdx, HEADER+0x20(%rsp)
    movq    %rdx, HEADER+0x28(%rsp)
    movq    %rdx, HEADER+0x30(%rsp)
    movq    %rdx, HEADER+0x38(%rsp)
    movl    $VECTOR_COMPONENTS, %eax
    cmpl    $VECTOR_SAVE_COMPACT, %r12d
    je      .Lsave_compact
    xsave   (%rsp)
    jmp     .Lcall
.Lsave_compact:
    xsavec  (%rsp)
    jmp     .Lcall
.Lsave_legacy:
    fxsave  (%rsp)
.Lcall:
    call    *%r8
    movq    %rax, %r8
    testl   %r12d, %r12d
    jz      .Lrestore_legacy
    movl    $VECTOR_COMPONENTS, %eax
    xorl    %edx, %edx
    xrstor  (%rsp)
    jmp     .Ldone
.Lrestore_legacy:
    fxrstor (%rsp)
.Ldone:
    movq    %r8, %rax
    movq    -8(%rbx), %r12
    movq    %rbx, %rsp
    .cfi_def_cfa_register %rsp
    popq    %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    .cfi_restore %r12
    ret
    .cfi_endproc
    .size   call_keeping_vectors, .-call_keeping_vectors

/*
 * int spawn_thread(function, stack_end): a thread of this process that runs function() and ends. It
 * shares everything with its maker but the stack; thread-local storage is the maker's, so there is none
 * to use. Returns its number, or a negative error.
 */
#define SYS_EXIT            60
#define SYS_CLONE           56
/* CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM */
#define CLONE_FLAGS         0x00050f00

    .globl  spawn_thread
    .hidden spawn_thread
    .type   spawn_thread, @function
    .p2align 4
spawn_thread:
    .cfi_startproc
    endbr64
    movq    %rdi, %r9
    movl    $CLONE_FLAGS, %edi
    xorl    %edx, %edx
    xorl    %r10d, %r10d
    xorl    %r8d, %r8d
    movl    $SYS_CLONE, %eax
    syscall
    testq   %rax, %rax
    jz      .Lin_thread
    ret
.Lin_thread:
    .cfi_undefined %rip             /* the outermost frame */
    xorl    %ebp, %ebp
    call    *%r9
    xorl    %edi, %edi
    movl    $SYS_EXIT, %eax
    syscall
    hlt
    .cfi_endproc
    .size   spawn_thread, .-spawn_thread

    .section .note.GNU-stack, "", @progbits
