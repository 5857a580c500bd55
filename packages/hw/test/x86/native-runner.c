/*
 * Runs instruction sequences on this machine's own processor. Cases come on standard input, outcomes go to standard
 * output; the layouts are those of native-runner.ts. A case starts and ends in a signal handler, which sees and sets
 * every register: it ends with INT3, or with whatever exception it raises.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define DATA 0x10000000ul
#define DATA_BYTES 8192ul
#define WINDOW 1024ul
#define STACK 0x10010000ul
#define STACK_BYTES 4096ul
#define CODE 0x11000000ul
#define CODE_BYTES 4096ul
#define DEFINED_FLAGS 0xcd5ul

struct input {
  uint64_t registers[16];
  uint64_t flags;
  uint64_t code_bytes;
  uint8_t code[1024];
  uint8_t window[WINDOW];
};

struct outcome {
  uint64_t registers[16];
  uint64_t rip;
  uint64_t flags;
  uint64_t signal;
  uint8_t data[DATA_BYTES];
  uint8_t stack[STACK_BYTES];
};

/* In the order of register numbers. */
static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static struct input input;
static struct outcome outcome;
static gregset_t saved;
static int running;

static void handler(int number, siginfo_t *info, void *context) {
  (void)info;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  if (!running) {
    memcpy(saved, registers, sizeof saved);
    for (int i = 0; i < 16; i++) registers[order[i]] = input.registers[i];
    registers[REG_RIP] = CODE;
    registers[REG_EFL] = 0x202 | (input.flags & DEFINED_FLAGS);
    running = 1;
    return;
  }
  for (int i = 0; i < 16; i++) outcome.registers[i] = registers[order[i]];
  outcome.rip = registers[REG_RIP];
  outcome.flags = registers[REG_EFL] & DEFINED_FLAGS;
  outcome.signal = number;
  memcpy(registers, saved, sizeof saved);
  running = 0;
}

static void place(unsigned long address, unsigned long bytes, int protection) {
  void *got = mmap((void *)address, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != (void *)address) {
    perror("mmap");
    exit(2);
  }
}

int main(void) {
  static uint8_t signal_stack[65536];
  stack_t alternate = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
  sigaltstack(&alternate, NULL);
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  const int signals[] = {SIGTRAP, SIGSEGV, SIGFPE, SIGILL, SIGBUS};
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
  place(DATA, DATA_BYTES, PROT_READ | PROT_WRITE);
  place(STACK, STACK_BYTES, PROT_READ | PROT_WRITE);
  place(CODE, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
  while (fread(&input, sizeof input, 1, stdin) == 1) {
    memset((void *)DATA, 0, DATA_BYTES);
    memset((void *)STACK, 0, STACK_BYTES);
    memcpy((void *)(DATA + (DATA_BYTES - WINDOW) / 2), input.window, WINDOW);
    memset((void *)CODE, 0xcc, CODE_BYTES);
    memcpy((void *)CODE, input.code, input.code_bytes);
    __asm__ volatile("int3" ::: "memory");
    memcpy(outcome.data, (void *)DATA, DATA_BYTES);
    memcpy(outcome.stack, (void *)STACK, STACK_BYTES);
    if (fwrite(&outcome, sizeof outcome, 1, stdout) != 1) return 1;
  }
  return 0;
}
