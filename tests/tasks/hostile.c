// SPDX-License-Identifier: Apache-2.0
//
// User mode against its own kernel: privileged instructions, software interrupts, jumps into kernel code, kernel addresses, selectors and
// signal frames that no program has. Each has to end in the signal that it deserves, and the kernel has to go on as if nothing had happened.
//
// Standard input: a list of numbers: the address at which the kernel takes system calls, then addresses of kernel code to jump to; or an empty
// list. Standard output: {"attacks": N, "wrong": ["what ended how", ...]}.

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int caught;
static unsigned attacks, wrong;
static void (*tamper)(ucontext_t *);
static uint8_t *code;
// Not in registers, which a jump back out of a signal handler does not keep.
static volatile unsigned long i, at;

static void handler(int number, siginfo_t *info, void *context)
{
	(void)info;
	if (number == SIGUSR1) {
		tamper(context);
		return;
	}
	caught = number;
	siglongjmp(back, 1);
}

static void note(const char *what, unsigned long at, int wanted)
{
	attacks++;
	if (caught != wanted)
		printf("%s\"%s %#lx: signal %d, not %d\"", wrong++ ? ", " : "", what, at, caught, wanted);
}

#define ATTACK(what, at, wanted, body)          \
	do {                                        \
		caught = 0;                             \
		if (!sigsetjmp(back, 1)) {              \
			body;                               \
		}                                       \
		asm volatile("cld" ::: "memory");       \
		note(what, (unsigned long)(at), wanted); \
	} while (0)

static void run_code(const void *bytes, size_t count)
{
	memcpy(code, bytes, count);
	code[count] = 0xc3;
	((void (*)(void))code)();
}

static const struct {
	const char *name;
	int signal;
	uint8_t size, bytes[12];
} instructions[] = {
	{ "hlt", SIGSEGV, 1, { 0xf4 } },
	{ "cli", SIGSEGV, 1, { 0xfa } },
	{ "sti", SIGSEGV, 1, { 0xfb } },
	{ "in", SIGSEGV, 2, { 0xe4, 0x60 } },
	{ "out", SIGSEGV, 2, { 0xe6, 0x80 } },
	{ "rdmsr", SIGSEGV, 2, { 0x0f, 0x32 } },
	{ "wrmsr", SIGSEGV, 2, { 0x0f, 0x30 } },
	{ "mov rax, cr0", SIGSEGV, 3, { 0x0f, 0x20, 0xc0 } },
	{ "mov rax, cr3", SIGSEGV, 3, { 0x0f, 0x20, 0xd8 } },
	{ "mov cr3, rax", SIGSEGV, 3, { 0x0f, 0x22, 0xd8 } },
	{ "mov rax, dr7", SIGSEGV, 3, { 0x0f, 0x21, 0xf8 } },
	{ "invlpg", SIGSEGV, 3, { 0x0f, 0x01, 0x38 } },
	{ "lgdt", SIGSEGV, 3, { 0x0f, 0x01, 0x14 } },
	{ "lidt", SIGSEGV, 3, { 0x0f, 0x01, 0x1c } },
	{ "ltr", SIGSEGV, 3, { 0x0f, 0x00, 0xd8 } },
	{ "lmsw", SIGSEGV, 3, { 0x0f, 0x01, 0xf0 } },
	{ "clts", SIGSEGV, 2, { 0x0f, 0x06 } },
	{ "swapgs", SIGSEGV, 3, { 0x0f, 0x01, 0xf8 } },
	{ "sysretq", SIGSEGV, 3, { 0x48, 0x0f, 0x07 } },
	{ "wbinvd", SIGSEGV, 2, { 0x0f, 0x09 } },
	{ "int3", SIGTRAP, 1, { 0xcc } },
	{ "icebp", SIGTRAP, 1, { 0xf1 } },
	{ "ud2", SIGILL, 2, { 0x0f, 0x0b } },
	{ "div by zero", SIGFPE, 4, { 0x31, 0xc9, 0xf7, 0xf1 } },
	{ "ss = kernel data", SIGSEGV, 7, { 0xb8, 0x18, 0, 0, 0, 0x8e, 0xd0 } },
	{ "trap flag", SIGTRAP, 10, { 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90 } },
	{ "iretq of nothing", SIGSEGV, 6, { 0x31, 0xe4, 0x48, 0xcf, 0x90, 0x90 } },
};

static void bad_rip(ucontext_t *c) { c->uc_mcontext.gregs[REG_RIP] = 0x800000000000; }
static void kernel_rip(ucontext_t *c) { c->uc_mcontext.gregs[REG_RIP] = (long)0xffffffff81000000; }
static void kernel_rsp(ucontext_t *c)
{
	c->uc_mcontext.gregs[REG_RSP] = (long)0xffffffff81000000;
	c->uc_mcontext.gregs[REG_RIP] = (long)code;
}
static void kernel_cs(ucontext_t *c) { c->uc_mcontext.gregs[REG_CSGSFS] = (c->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffL) | 0x10; }
static void null_cs(ucontext_t *c) { c->uc_mcontext.gregs[REG_CSGSFS] &= ~0xffffL; }
static void odd_cs(ucontext_t *c) { c->uc_mcontext.gregs[REG_CSGSFS] = (c->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffL) | 0xfff7; }
static void all_flags(ucontext_t *c) { c->uc_mcontext.gregs[REG_EFL] = ~0x100L & ~0x40400L; }

static unsigned long flags_now(void)
{
	unsigned long flags;

	asm volatile("pushfq; popq %0" : "=r"(flags));
	return flags;
}

// A jump to where SYSCALL goes is a system call, with whatever flags the jumper claims to have had.
static long call_by_jump(unsigned long entry, unsigned long flags)
{
	long result;

	asm volatile("leaq 1f(%%rip), %%rcx\n\tmovq %3, %%r11\n\tjmp *%2\n1:"
		     : "=a"(result)
		     : "a"(SYS_getpid), "r"(entry), "r"(flags)
		     : "rcx", "r11", "memory");
	return result;
}

// The next number of the input; 0 at its end.
static unsigned long next_number(void)
{
	unsigned long number = 0;
	int c;

	while ((c = getchar()) != EOF && (c < '0' || c > '9'))
		;
	for (; c >= '0' && c <= '9'; c = getchar())
		number = number * 10 + (unsigned)(c - '0');
	return number;
}

int main(void)
{
	static uint8_t alternate[64 << 10];
	const stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
	const int numbers[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGUSR1 };
	const unsigned long places[] = { 0xffffffff81000000, 0xffffffff82000000, 0xffff888000000000, 0xffff888001000000,
					 0xfffffe0000000000, 0xfffffe0000001000, 0xfffffe0000002ff0, 0xffffffffff5fc000,
					 0xffffffffff600000, 0xffffc90000000000, 0x800000000000,     0xfffffffffffffff8 };
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	unsigned long address;
	const unsigned long entry = next_number();

	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED || sigaltstack(&stack, NULL))
		return 1;
	for (i = 0; i < sizeof numbers / sizeof *numbers; i++)
		sigaction(numbers[i], &action, NULL);
	printf("{\"wrong\": [");

	for (i = 0; i < sizeof instructions / sizeof *instructions; i++)
		ATTACK(instructions[i].name, i, instructions[i].signal, run_code(instructions[i].bytes, instructions[i].size));
	for (i = 0; i < 256; i++) {
		const uint8_t bytes[] = { 0xcd, (uint8_t)i };

		if (i == 3 || i == 0x80)	/* the latter is a system call where the kernel has those of 32-bit programs */
			continue;
		// A processor says #GP; KVM without hardware virtualization #UD, or nothing. What must not happen is that vector's event.
		ATTACK("int", i, caught, run_code(bytes, 2));
		if (caught && caught != SIGILL)
			note("int", i, SIGSEGV);
	}
	for (i = 0; i < sizeof places / sizeof *places; i++) {
		ATTACK("read", places[i], SIGSEGV, (void)*(volatile char *)places[i]);
		ATTACK("write", places[i], SIGSEGV, *(volatile char *)places[i] = 1);
		ATTACK("jump", places[i], SIGSEGV, ((void (*)(void))places[i])());
		ATTACK("stack", places[i], SIGSEGV,
		       asm volatile("movq %%rsp, %%rbx; movq %0, %%rsp; pushq $1; movq %%rbx, %%rsp" : : "r"(places[i]) : "rbx", "memory"));
		ATTACK("write by the kernel", places[i], 0, if (syscall(SYS_getcwd, places[i], 4096UL) >= 0) caught = -1);
	}
	while ((address = next_number()))
		for (at = address; at < address + 48; at++)
			ATTACK("jump into kernel code", at, SIGSEGV, ((void (*)(void))at)());

	void (*const frames[])(ucontext_t *) = { bad_rip, kernel_rip, kernel_rsp, kernel_cs, null_cs, odd_cs };
	code[0] = 0x50;	/* push rax, for kernel_rsp */
	code[1] = 0xc3;
	for (i = 0; i < sizeof frames / sizeof *frames; i++) {
		tamper = frames[i];
		ATTACK("signal frame", i, SIGSEGV, raise(SIGUSR1));
	}
	tamper = all_flags;
	ATTACK("signal frame with all flags", 0, 0, raise(SIGUSR1));
	asm volatile("pushfq; andl $~0x44100, (%%rsp); popfq; cld" ::: "memory", "cc");
	ATTACK("flags", flags_now(), 0, if ((flags_now() & 0x3200) != 0x200) caught = -1);
	ATTACK("gs", 0, 0, if (syscall(SYS_arch_prctl, ARCH_SET_GS, 0x7fffffffe000UL)) caught = -1; if (getppid() < 0) caught = -1);
	ATTACK("gs of the kernel", 0, 0, if (!syscall(SYS_arch_prctl, ARCH_SET_GS, 0xffffffff81000000UL)) caught = -1);

	const unsigned long flags[] = { 0x202, 0x3202, 0x0, 0x200ed7 };

	for (i = 0; entry && i < sizeof flags / sizeof *flags; i++) {
		ATTACK("system call by a jump", flags[i], caught, if (call_by_jump(entry, flags[i]) != getpid()) caught = -1);
		if (caught && caught != SIGSEGV)
			note("system call by a jump", flags[i], 0);
		ATTACK("flags after it", flags_now(), 0, if ((flags_now() & 0x3200) != 0x200) caught = -1);
		asm volatile("pushfq; andl $~0x44100, (%%rsp); popfq" ::: "memory", "cc");
	}
	printf("], \"attacks\": %u}\n", attacks);
	return 0;
}
