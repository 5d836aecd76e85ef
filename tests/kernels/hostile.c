// SPDX-License-Identifier: Apache-2.0
//
// A guest kernel that attacks what is below it: the monitor and KVM. Built for one attack (-DATTACK=...) and one case of it (-DCASE=N), without any
// library, linked at 1 MiB; torpor-vmm starts it in 64-bit mode with the first 4 GiB mapped one to one. It says "attacking" on the serial port, and
// "over" and a count where the machine outlives the attack, and powers it off then. With -DFOREVER it begins anew instead.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define RAM 0x4000000ul /* 64 MiB; the window of the door is above */
#define HOLE 0x5000000ul
#define DEVICES 0xd0000000ul
#define DOOR 0xd0010000ul
#define BELL 0xd0011000ul
#define APIC 0xfee00000ul
#ifndef CASE
#define CASE 0
#endif

#define PORTS 1
#define HOLES 2
#define REGISTERS 3
#define RINGS 4
#define MSRS 5
#define STORM 6
#define DOORBELL 7
#define INSTRUCTIONS 8
#define FAULT 9
#define COMPUTE 10

static volatile u64 count;

static void out8(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static void store(int width, u64 at, u64 value)
{
	switch (width) {
	case 1: asm volatile("movb %b0, (%1)" : : "a"(value), "b"(at) : "memory"); break;
	case 2: asm volatile("movw %w0, (%1)" : : "a"(value), "b"(at) : "memory"); break;
	case 4: asm volatile("movl %k0, (%1)" : : "a"(value), "b"(at) : "memory"); break;
	default: asm volatile("movq %0, (%1)" : : "a"(value), "b"(at) : "memory");
	}
	count++;
}

__attribute__((unused)) static u64 load(int width, u64 at)
{
	u64 value = 0;

	switch (width) {
	case 1: asm volatile("movb (%1), %b0" : "+a"(value) : "b"(at) : "memory"); break;
	case 2: asm volatile("movw (%1), %w0" : "+a"(value) : "b"(at) : "memory"); break;
	case 4: asm volatile("movl (%1), %k0" : "+a"(value) : "b"(at) : "memory"); break;
	default: asm volatile("movq (%1), %0" : "+a"(value) : "b"(at) : "memory");
	}
	count++;
	return value;
}

static void say(const char *text)
{
	out8(0x3f9, 0);
	out8(0x3fb, 3);
	out8(0x3fc, 0);
	while (*text)
		out8(0x3f8, (u8)*text++);
}

static void say_number(u64 number)
{
	char digits[21];
	int at = 20;

	digits[at] = 0;
	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	say(digits + at);
}

static u64 seed = 88172645463325252ul + CASE * 7919;
__attribute__((unused)) static u64 random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* Interrupts and faults: a fault skips an instruction of two bytes (rdmsr, wrmsr), an interrupt is acknowledged. */
static struct { u16 low, selector, flags, middle; u32 high, zero; } table[256] __attribute__((aligned(16)));
static volatile u64 interrupts;
void on_fault(void), on_interrupt(void);
asm("on_fault: addq $8, %rsp; addq $2, (%rsp); iretq\n"
    "on_interrupt: pushq %rax; incq interrupts(%rip); movl $0xfee000b0, %eax; movl $0, (%rax); popq %rax; iretq\n");

static void gate(int vector, void (*to)(void))
{
	u16 selector;

	asm volatile("movw %%cs, %0" : "=r"(selector));
	table[vector].low = (u16)(u64)to;
	table[vector].middle = (u16)((u64)to >> 16);
	table[vector].high = 0;
	table[vector].selector = selector;
	table[vector].flags = 0x8e00;
}

static void take_interrupts(void)
{
	struct { u16 limit; u64 base; } __attribute__((packed)) at = { sizeof table - 1, (u64)table };
	int vector;

	for (vector = 32; vector < 256; vector++)
		gate(vector, on_interrupt);
	gate(13, on_fault);
	asm volatile("lidt %0" : : "m"(at));
}

#if ATTACK == PORTS
static void attack(void)
{
	static const u32 values[] = { 0, 0xa5a5a5a5 };
	u32 port, value, i;

	for (port = 0; port < 65536; port++) {
		asm volatile("inb %w1, %b0" : "=a"(value) : "d"(port));
		asm volatile("inw %w1, %w0" : "=a"(value) : "d"(port));
		asm volatile("inl %w1, %k0" : "=a"(value) : "d"(port));
		/* All patterns where something may be, one of them elsewhere. */
		for (i = 0; i < (port < 0x500 ? 2 : 1); i++) {
			value = values[i ^ (port & 1)];
			asm volatile("outb %b0, %w1" : : "a"(value), "d"(port));
			asm volatile("outw %w0, %w1" : : "a"(value), "d"(port));
			asm volatile("outl %k0, %w1" : : "a"(value), "d"(port));
		}
		count += 6;
	}
	/* Strings of them, from and to memory that is not there. */
	for (port = 0; port < 0x400; port += 8) {
		u64 at = HOLE, n = 3;

		if (port == 0x60)
			continue;
		asm volatile("rep insb" : "+D"(at), "+c"(n) : "d"(port) : "memory");
		at = HOLE, n = 3;
		asm volatile("rep outsb" : "+S"(at), "+c"(n) : "d"(port) : "memory");
		count += 2;
	}
}
#elif ATTACK == HOLES
static void attack(void)
{
	u64 at;
	int width;

	for (at = HOLE; at < 0x100000000ul; at += 0x200000) {
		const u64 odd = at + (random() & 0x1ffff8);

		if (odd >= DEVICES && odd < BELL + 0x1000)
			continue;
		for (width = 1; width <= 8; width *= 2) {
			store(width, odd + 7, random());
			load(width, odd + 5);
		}
	}
	/* The last bytes of RAM and the first beyond it, in one access; the pages of the interrupt controllers, every width. */
	for (width = 2; width <= 8; width *= 2)
		store(width, HOLE - 1, ~0ul), load(width, HOLE - 1);
	for (at = 0; at < 0x1000; at += 4)
		for (width = 1; width <= 8; width *= 2) {
			store(width, 0xfec00000ul + at, random());
			if (at != 0x300)
				store(width, APIC + at, random());
			load(width, APIC + at);
		}
}
#elif ATTACK == REGISTERS
/* Without regard to any rule, until the monitor has enough of it. */
static void attack(void)
{
	int i;

	for (i = 0; i < 8000; i++) {
		const u64 at = DEVICES + (random() % 3) * 0x1000 + (CASE & 1 ? (random() & 0x3f) * 4 : random() & 0xfff);
		const int width = CASE & 2 ? 4 : 1 << (random() & 3);

		load(width, at);
		store(width, at, CASE & 4 ? random() & 0xf : random());
	}
}
#elif ATTACK == RINGS
struct descriptor { u64 address; u32 length; u16 flags, next; };
#define NEXT 1
#define WRITE 2
#define INDIRECT 4

static u32 size;
static struct descriptor *const ring = (void *)0x1000000;
static u8 *const avail = (void *)0x1010000, *const buffers = (void *)0x1100000;

static void set(u64 device, u64 at, u32 value) { store(4, device + at, value); }

static void queue(u64 device, u32 number, u64 descriptors, u64 available, u64 used)
{
	set(device, 0x30, number);
	size = (u32)load(4, device + 0x34);
	set(device, 0x38, size);
	set(device, 0x80, (u32)descriptors), set(device, 0x84, (u32)(descriptors >> 32));
	set(device, 0x90, (u32)available), set(device, 0x94, (u32)(available >> 32));
	set(device, 0xa0, (u32)used), set(device, 0xa4, (u32)(used >> 32));
	set(device, 0x44, 1);
}

static void offer(u16 head, u16 index)
{
	*(volatile u16 *)(avail + 4 + 2 * ((u16)(index - 1) % size)) = head;
	*(volatile u16 *)(avail + 2) = index;
}

static void descriptor(int at, u64 address, u32 length, u16 flags, u16 next)
{
	ring[at] = (struct descriptor){ address, length, flags, next };
}

/* CASE: 100 for each device (0 the socket, 1 the root disk), 20 for each queue of it, then one of those below. */
static void attack(void)
{
	const u64 device = DEVICES + CASE / 100 * 0x1000, good = (u64)buffers;
	const u32 number = CASE % 100 / 20;
	const u64 used = 0x1020000;
	int i;

	set(device, 0x70, 0), set(device, 0x70, 1), set(device, 0x70, 3);
	set(device, 0x24, 1), set(device, 0x20, 1);
	set(device, 0x70, 11);
	if (!(load(4, device + 0x70) & 8)) {
		say("no features\n");
		return;
	}
	switch (CASE % 20) {
	case 12: queue(device, number, 0xd0000000ul, (u64)avail, used); break;
	case 13: queue(device, number, (u64)ring, (u64)avail, HOLE - 8); break;
	case 14: queue(device, number, ~0xful, ~0x1ul, ~0x3ul); break;
	case 15: queue(device, number, (u64)ring + 8, (u64)avail + 1, used + 2); break;
	case 16: queue(device, number, (u64)ring, (u64)avail, (u64)ring); break;
	default: queue(device, number, (u64)ring, (u64)avail, used);
	}
	set(device, 0x70, 15);
	descriptor(0, good, 16, NEXT, 1);
	descriptor(1, good + 4096, 4096, WRITE | NEXT, 2);
	descriptor(2, good + 8192, 1, WRITE, 0);
	switch (CASE % 20) {
	case 0: descriptor(1, good + 4096, 4096, WRITE | NEXT, 0); break;			/* a loop */
	case 1: descriptor(2, good + 8192, 1, WRITE | NEXT, 2); break;				/* onto itself */
	case 2: descriptor(1, good + 4096, ~0u, WRITE | NEXT, 2); break;			/* beyond RAM */
	case 3: descriptor(1, HOLE + 4096, 4096, WRITE | NEXT, 2); break;			/* not RAM */
	case 4: descriptor(1, HOLE - 100, 4096, WRITE | NEXT, 2); break;			/* half RAM */
	case 5: descriptor(1, ~0ul - 100, 4096, WRITE | NEXT, 2); break;			/* around the end of all addresses */
	case 6: descriptor(0, good, 4096, INDIRECT, 0); break;
	case 7: descriptor(1, good + 4096, 4096, WRITE | NEXT, 60000); break;			/* no such descriptor */
	case 8: descriptor(0, good, 0, NEXT, 1); break;						/* empty */
	case 9: descriptor(0, good, 16, WRITE | NEXT, 1), ring[1].flags = NEXT; break;		/* writable before readable */
	case 17: descriptor(0, DEVICES, 16, NEXT, 1); break;					/* a device's own registers */
	case 18: descriptor(1, used, 4096, WRITE | NEXT, 2); break;				/* its own used ring */
	case 19:										/* every byte at random, again and again */
		for (i = 0; i < 4096; i++)
			((volatile u8 *)ring)[i] = (u8)random();
		break;
	default: break;
	}
	switch (CASE % 20) {
	case 10: offer(60000, 1); break;							/* no such head */
	case 11: offer(0, 40000); break;							/* more than the queue holds */
	default: offer(0, 1);
	}
	for (i = 0; i < 300; i++) {
		set(device, 0x50, number);
		set(device, 0x64, 3);
		offer((u16)(random() % size), (u16)(i + 2));
	}
	set(device, 0x50, (u32)random());
}
#elif ATTACK == MSRS
static void attack(void)
{
	static const struct { u32 from, to; } ranges[] = { { 0, 0x2000 }, { 0x40000000, 0x40000200 }, { 0x4b564d00, 0x4b564d20 },
							   { 0x4b564df0, 0x4b564e10 }, { 0xc0000000, 0xc0000200 }, { 0xc0010000, 0xc0010400 },
							   { 0xc0011000, 0xc0011040 }, { 0xfffffff0, 0xffffffff } };
	static const u64 values[] = { ~0ul, HOLE + 1, 0x8000000000000001ul };
	u32 i, j, msr, low, high;

	for (i = 0; i < sizeof ranges / sizeof *ranges; i++)
		for (msr = ranges[i].from; msr < ranges[i].to; msr++) {
			low = high = 0;
			asm volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(msr));
			/* EFER and the like that the next instruction depends on keep what they have in one of the rounds. */
			for (j = 0; j < sizeof values / sizeof *values; j++)
				asm volatile("wrmsr" : : "a"((u32)values[j]), "d"((u32)(values[j] >> 32)), "c"(msr) : "memory");
			asm volatile("wrmsr" : : "a"(low), "d"(high), "c"(msr) : "memory");
			count += 4;
		}
}
#elif ATTACK == STORM
static void attack(void)
{
	int i;

	store(4, APIC + 0xf0, 0x1ff);
	store(4, APIC + 0x80, 0);
	/* The timer, as fast as it goes, and its counter written again and again. */
	store(4, APIC + 0x3e0, 0xb);
	store(4, APIC + 0x320, 0x20000 | 0x41);
	store(4, APIC + 0x380, 1);
	asm volatile("sti");
	for (i = 0; i < 20000; i++) {
		store(4, APIC + 0x300, 0x40000 | (0x50 + (i & 63)));	/* to itself */
		store(4, APIC + 0x300, 0x84050);			/* to all, itself included */
		if (i % 16 == 0)
			store(4, DEVICES + 0x64 + (u64)(i / 16 % 3) * 0x1000, 3);
		if (i % 64 == 0)
			asm volatile("hlt");
	}
	asm volatile("cli");
	store(4, APIC + 0x320, 0x10000);
	say_number(interrupts);
	say(" interrupts, ");
}
#elif ATTACK == DOORBELL
static void attack(void)
{
	const u64 user = RAM + 0x1000;
	int i, width;

	switch (CASE) {
	case 0:	/* every register of both pages, every width, but those that end the machine or wait */
		for (i = 0; i < 0x1000; i += i < 0x100 ? 1 : 61)
			for (width = 1; width <= 8; width *= 2) {
				load(width, DOOR + (u64)i);
				if (i + width <= 0x80 || i > 0x83)
					store(width, DOOR + (u64)i, random());
				if (i > 16) {
					load(width, BELL + (u64)i);
					store(width, BELL + (u64)i, random());
				}
			}
		break;
	case 1:	/* a frame of no kind that there is */
		for (i = 0; i < 64; i++)
			store(8, user + 0x701000 + (u64)i * 8, random());
		store(8, user + 0x10, 512);
		store(1, BELL, 1);
		load(1, BELL + 8);
		break;
	case 2:	/* longer than its box by one, then by all there is */
		store(8, user + 0x10, (7 << 20) + 1);
		store(1, BELL, 1);
		store(8, user + 0x10, ~0ul);
		store(1, BELL, 1);
		break;
	case 3:	/* rings and rings */
		for (i = 0; i < 20000; i++) {
			store(8, user + 0x701000, 0x4400000002);
			store(8, user + 0x701008, 0x4100);
			store(8, user + 0x10, 10);
			store(1, BELL, 1);
		}
		break;
	case 4:	/* waits for nobody, over and over, as if it were ready */
		for (i = 0; i < 20000; i++)
			load(1, BELL + 8);
		break;
	default: /* stops in no way that there is */
		store(4, DOOR + 0x80, 0xffffffff);
	}
}
#elif ATTACK == INSTRUCTIONS
/* What KVM's emulator does not know ends the run of the vCPU with an error. */
static void attack(void)
{
	static u8 area[4096] __attribute__((aligned(64)));

	switch (CASE) {
	case 0: asm volatile("lock cmpxchg16b (%0)" : : "r"(area) : "rax", "rdx", "memory"); break;
	case 1: asm volatile("vmcall"); break;
	case 2: asm volatile(".byte 0x0f, 0x01, 0xd9"); break;	/* vmmcall */
	case 3: asm volatile("movq %0, %%cr4" : : "r"(~0ul)); break;
	case 4: asm volatile("movq %0, %%cr3" : : "r"(HOLE)); asm volatile("invlpg (%0)" : : "r"(HOLE)); break;
	case 5: asm volatile("movl $0xffffff, %%esp; jmp *%0" : : "r"(HOLE)); break;	/* code where no memory is */
	default: asm volatile("movq %0, %%cr0" : : "r"(0x10ul)); break;		/* paging off in 64-bit mode */
	}
}
#elif ATTACK == COMPUTE
static void attack(void)
{
	for (;;)
		count++;
}
#else
static void attack(void)
{
	struct { u16 limit; u64 base; } __attribute__((packed)) none = { 0, CASE ? ~0xfffful : 0 };

	asm volatile("lidt %0; ud2" : : "m"(none));
}
#endif

void start(void);
asm(".section .text.start; .globl start; start: movq $0x2000000, %rsp; call kernel; .text");

void kernel(void)
{
	do {
		say("attacking\n");
		take_interrupts();
		attack();
	}
#ifdef FOREVER
	while (1);
#else
	while (0);
#endif
	say("\nover after ");
	say_number(count);
	say("\n");
	store(4, DOOR + 0x80, 1);
}
