// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
/*
 * Ring 0 as an attacker has it: a device, /dev/vtx, whose requests touch physical
 * memory, MSRs, control registers and ports, execute VMX instructions, and make
 * hypercalls and VTL calls. It decides nothing: it says which exception came of it.
 *
 * What is asked for is done in the caller's context, and no lock is held: an
 * attack that ends in an oops ends its process alone. Without a hypervisor that
 * has Hyper-V's interface nothing is done at all, for there it would work.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#include <asm/hardirq.h>
#include <asm/nospec-branch.h>
#include <asm/pgtable.h>
#include <asm/processor.h>
#include <asm/smap.h>

#include "vtxattack.h"

/*
 * TRY is an instruction that may raise an exception. Behind it RAX holds the
 * exception's vector, or -1 if there was none. A result that the instruction
 * leaves in RAX goes to RCX.
 */
#define TRY_RAX(instruction)				\
	"1: " instruction "\n\t"			\
	"mov %%rax, %%rcx\n\t"				\
	"mov $-1, %%rax\n"				\
	"2:\n"						\
	_ASM_EXTABLE_FAULT(1b, 2b)

#define TRY(instruction)				\
	"1: " instruction "\n\t"			\
	"mov $-1, %%rax\n"				\
	"2:\n"						\
	_ASM_EXTABLE_FAULT(1b, 2b)

#define NONE (-1)

/* Memory */

static void *map(u64 address)
{
	return ioremap_cache(address & PAGE_MASK, PAGE_SIZE);
}

static int touch(struct vtx_request *r)
{
	void *page, *p;
	long vector;

	if (offset_in_page(r->a) > PAGE_SIZE - 8)
		return -EINVAL;
	page = map(r->a);
	if (!page)
		return -ENOMEM;
	p = page + offset_in_page(r->a);
	switch (r->what) {
	case VTX_READ:
		r->c = 0;
		asm volatile(TRY("mov (%[p]), %[value]")
			     : "=&a" (vector), [value] "+r" (r->c) : [p] "r" (p) : "memory");
		break;
	case VTX_WRITE:
		asm volatile(TRY("mov %[value], (%[p])")
			     : "=&a" (vector) : [value] "r" (r->b), [p] "r" (p) : "memory");
		break;
	default:
		pr_info("reading at %px\n", p);
		asm volatile("mov (%[p]), %[value]" : [value] "=r" (r->c) : [p] "r" (p) : "memory");
		vector = NONE;
	}
	iounmap(page);
	r->vector = vector;
	return 0;
}

/* move copies 4 bytes from one physical address to another in one instruction. Where one of
 * them is a device, it is the hypervisor that reads and writes the other. */
static int move(struct vtx_request *r)
{
	void *from, *to, *si, *di;
	long vector;

	if (offset_in_page(r->a) > PAGE_SIZE - 4 || offset_in_page(r->b) > PAGE_SIZE - 4)
		return -EINVAL;
	from = map(r->a);
	if (!from)
		return -ENOMEM;
	to = map(r->b);
	if (!to) {
		iounmap(from);
		return -ENOMEM;
	}
	si = from + offset_in_page(r->a);
	di = to + offset_in_page(r->b);
	asm volatile(TRY("movsl") : "=&a" (vector), "+S" (si), "+D" (di) :: "memory");
	iounmap(to);
	iounmap(from);
	r->vector = vector;
	return 0;
}

/* string_io has a port's byte go from or to a physical address. Where the port is not the
 * guest's own, it is the hypervisor that reads or writes the memory. */
static int string_io(struct vtx_request *r)
{
	void *page, *p;
	long vector;

	page = map(r->a);
	if (!page)
		return -ENOMEM;
	p = page + offset_in_page(r->a);
	if (r->what == VTX_OUTS)
		asm volatile(TRY("outsb") : "=&a" (vector), "+S" (p) : "d" ((u16)r->b) : "memory");
	else
		asm volatile(TRY("insb") : "=&a" (vector), "+D" (p) : "d" ((u16)r->b) : "memory");
	iounmap(page);
	r->vector = vector;
	return 0;
}

/* walk has the processor read a physical address by itself, as an entry of a page table: for
 * one access there is a root of page tables with an entry of the kernel's that says so. */
static int walk(struct vtx_request *r)
{
	unsigned long flags, cr3, slot = 64; /* among those for processes, far from what they use */
	u64 address = slot << 39 | (u64)(offset_in_page(r->a) / 8) << 30;
	long vector;
	u64 *top;

	top = (void *)__get_free_page(GFP_KERNEL);
	if (!top)
		return -ENOMEM;
	pagefault_disable(); /* a page fault, if what is found there leads to one, is for TRY */
	local_irq_save(flags);
	cr3 = __read_cr3();
	memcpy(top, __va(cr3 & CR3_ADDR_MASK), PAGE_SIZE);
	top[slot] = (r->a & PAGE_MASK) | _PAGE_PRESENT | _PAGE_RW;
	asm volatile("mov %0, %%cr3" :: "r" (virt_to_phys(top) | (cr3 & ~CR3_ADDR_MASK & ~CR3_NOFLUSH)) : "memory");
	stac(); /* the address is one of a process's: with SMAP the fault would be an oops */
	asm volatile(TRY("mov (%[p]), %[value]")
		     : "=&a" (vector), [value] "=&r" (r->c) : [p] "r" (address) : "memory");
	clac();
	asm volatile("mov %0, %%cr3" :: "r" (cr3 & ~CR3_NOFLUSH) : "memory");
	local_irq_restore(flags);
	pagefault_enable();
	free_page((unsigned long)top);
	r->vector = vector;
	return 0;
}

/* execute calls what is at a physical address, as code of the kernel. The kernel
 * maps no such page as executable, but whoever is in ring 0 can. */
static int execute(struct vtx_request *r)
{
	u64 scratch = 0;
	unsigned int level;
	void *page, *p;
	pte_t *pte;

	page = map(r->a);
	if (!page)
		return -ENOMEM;
	p = page + offset_in_page(r->a);
	pte = lookup_address((unsigned long)page, &level);
	if (!pte || level != PG_LEVEL_4K) {
		iounmap(page);
		return -ENXIO;
	}
	WRITE_ONCE(pte->pte, pte->pte & ~_PAGE_NX);
	asm volatile("invlpg (%0)" :: "r" (page) : "memory");
	pr_info("executing at %px\n", p);
	/* Were the page all zeros, each two of them would be "add %al,(%rax)". */
	asm volatile(ANNOTATE_RETPOLINE_SAFE
		     "call *%[p]"
		     : ASM_CALL_CONSTRAINT : [p] "r" (p), "a" (&scratch)
		     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	iounmap(page);
	r->vector = NONE;
	return 0;
}

/* MSRs and control registers. What could be changed is put back at once, with
 * interrupts off, so that the kernel does not notice. */

static int read_msr(u32 msr, u64 *value)
{
	long vector;
	u32 high;

	asm volatile(TRY_RAX("rdmsr") : "=&a" (vector), "=&d" (high), "+c" (msr) :: "memory");
	if (vector == NONE)
		*value = (u64)high << 32 | msr;
	return vector;
}

static int write_msr(u32 msr, u64 value)
{
	long vector = (u32)value;

	asm volatile(TRY("wrmsr") : "+a" (vector) : "c" (msr), "d" (value >> 32) : "memory");
	return vector;
}

static void change_msr(struct vtx_request *r)
{
	u64 before = 0, after = 0;
	unsigned long flags;
	bool readable;

	local_irq_save(flags);
	readable = read_msr(r->a, &before) == NONE;
	r->vector = write_msr(r->a, r->b);
	if (readable && read_msr(r->a, &after) == NONE) {
		if (after != before)
			write_msr(r->a, before);
	} else if (r->vector == NONE) {
		/* What cannot be read has changed for all that one can tell. */
		before = ~r->b;
		after = r->b;
	}
	local_irq_restore(flags);
	r->b = before;
	r->c = after;
}

#define CONTROL_REGISTER(n)							\
static u64 cr##n##_read(void)							\
{										\
	u64 value;								\
										\
	asm volatile("mov %%cr" #n ", %0" : "=r" (value) :: "memory");		\
	return value;								\
}										\
										\
static int cr##n##_write(u64 value)						\
{										\
	long vector;								\
										\
	asm volatile(TRY("mov %[value], %%cr" #n)				\
		     : "=&a" (vector) : [value] "r" (value) : "memory");	\
	return vector;								\
}

CONTROL_REGISTER(0)
CONTROL_REGISTER(4)

static int change_cr(struct vtx_request *r)
{
	u64 before, after;
	unsigned long flags;

	if (r->a != 0 && r->a != 4)
		return -EINVAL;
	local_irq_save(flags);
	if (r->a == 0) {
		before = cr0_read();
		r->vector = cr0_write(before ^ r->b);
		after = cr0_read();
		if (after != before)
			cr0_write(before);
	} else {
		before = cr4_read();
		r->vector = cr4_write(before ^ r->b);
		after = cr4_read();
		if (after != before)
			cr4_write(before);
	}
	local_irq_restore(flags);
	r->b = before;
	r->c = after;
	return 0;
}

/* VMX instructions. The operand in memory is the address of a page, or a
 * descriptor for all translations. */
static int vmx(struct vtx_request *r)
{
	u64 operand[2] = { virt_to_phys(r->page), 0 };
	long vector;

#define VMX(instruction)							\
	asm volatile(TRY(instruction)						\
		     : "=&a" (vector)						\
		     : [m] "r" (operand), [two] "r" (2UL), "c" (0UL)		\
		     : "memory", "cc")
	switch (r->a) {
	case VTX_VMXON:		VMX("vmxon (%[m])"); break;
	case VTX_VMXOFF:	VMX("vmxoff"); break;
	case VTX_VMCLEAR:	VMX("vmclear (%[m])"); break;
	case VTX_VMPTRLD:	VMX("vmptrld (%[m])"); break;
	case VTX_VMPTRST:	VMX("vmptrst (%[m])"); break;
	case VTX_VMREAD:	VMX("vmread %[two], (%[m])"); break;
	case VTX_VMWRITE:	VMX("vmwrite (%[m]), %[two]"); break;
	case VTX_VMLAUNCH:	VMX("vmlaunch"); break;
	case VTX_VMRESUME:	VMX("vmresume"); break;
	case VTX_INVEPT:	VMX("invept (%[m]), %[two]"); break;
	case VTX_INVVPID:	VMX("invvpid (%[m]), %[two]"); break;
	case VTX_VMFUNC:	VMX("xor %%eax, %%eax\n1: vmfunc"); break;
	default:
		return -EINVAL;
	}
	r->vector = vector;
	return 0;
}

/* Calls */

/* A request is at the end of one page, and its own page behind it. */
static u64 address_or_page(struct vtx_request *r, u64 address)
{
	switch (address) {
	case VTX_PAGE:
		return virt_to_phys(r->page);
	case VTX_OUTPUT:
		return virt_to_phys(r->page) - PAGE_SIZE;
	}
	return address;
}

static void hypercall(struct vtx_request *r)
{
	u64 word = r->a, input = address_or_page(r, r->b), output = address_or_page(r, r->c);
	long vector;

	kernel_fpu_begin();
	asm volatile("mov %[output], %%r8\n"
		     TRY_RAX("vmcall")
		     : "=&a" (vector), "+c" (word), "+d" (input)
		     : [output] "r" (output)
		     : "r8", "r9", "r10", "r11", "memory", "cc");
	kernel_fpu_end();
	r->vector = vector;
	r->c = word;
}

/*
 * vtl_call makes a VTL call. VTL1 shares the registers except RSP, RIP and those
 * for the system: all of them may come back changed (TLFS 15.11), the vector
 * registers too, which hold the process's values.
 */
static int vtl_call(u64 rcx, u64 rax, u64 rdx)
{
	long vector = rax;

	kernel_fpu_begin();
	asm volatile("push %%rbp\n"
		     TRY("vmcall")
		     "pop %%rbp"
		     : "+a" (vector), "+c" (rcx), "+d" (rdx)
		     :: "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	kernel_fpu_end();
	return vector;
}

/* What VTL1 is asked with: a page of this form. */
struct call {
	u32 op, length, status, reserved;
	u8 data[4080];
};

#define CALL_VTL 0x11
#define OP_HMAC 1
#define HMAC_SIZE 32
#define MESSAGES 16

static atomic64_t received;

static void interrupted(struct irq_work *w)
{
	atomic64_inc(&received);
}

static DEFINE_IRQ_WORK(interrupt, interrupted);

static u64 timer_interrupts(void)
{
	return this_cpu_read(irq_stat.apic_timer_irqs);
}

/*
 * soak makes many VTL calls with a few different messages, whose answers must
 * stay what they were at first. At every second call an interrupt is already
 * waiting when VTL1 is entered, and must arrive when interrupts are on again; at
 * the others those of timer and devices may come at any time.
 */
static int soak(struct vtx_request *r)
{
	u8 first[MESSAGES][HMAC_SIZE];
	struct call *c = (void *)r->page;
	struct vtx_soak s = {};
	u64 timer, before, i;
	u32 m;

	timer = timer_interrupts();
	for (i = 0; i < r->a; i++) {
		m = i % MESSAGES;
		/* The whole answer differs from this. */
		memset(c->data, 0x5a, 64);
		memcpy(c->data, &m, sizeof(m));
		c->op = OP_HMAC;
		c->length = HMAC_SIZE + m;
		c->status = ~0;
		c->reserved = 0;
		if (i & 1) {
			before = atomic64_read(&received);
			local_irq_disable();
			irq_work_queue(&interrupt);
			r->vector = vtl_call(CALL_VTL, 0, virt_to_phys(c));
			local_irq_enable();
			s.sent++;
			s.received += atomic64_read(&received) - before;
		} else {
			r->vector = vtl_call(CALL_VTL, 0, virt_to_phys(c));
		}
		if (r->vector != NONE)
			break;
		s.done++;
		if (c->status != 0 || c->length != HMAC_SIZE)
			s.wrong++;
		else if (i < MESSAGES)
			memcpy(first[m], c->data, HMAC_SIZE);
		else if (memcmp(first[m], c->data, HMAC_SIZE))
			s.wrong++;
		if (i % 10000 == 9999)
			pr_info("%llu of %llu calls\n", i + 1, r->a);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	for (i = 1; i < MESSAGES && i < s.done; i++)
		for (m = 0; m < i; m++)
			if (!memcmp(first[i], first[m], HMAC_SIZE))
				s.wrong++;
	s.timer = timer_interrupts() - timer;
	memcpy(r->page, &s, sizeof(s));
	return 0;
}

/* overlay writes an MSR that lays a page of the hypervisor's over a physical address, reads
 * there, makes a VTL call, and puts the MSR back. */
static int overlay(struct vtx_request *r)
{
	u64 before, *page;
	unsigned long flags;
	long vector;

	page = map(r->c);
	if (!page)
		return -ENOMEM;
	local_irq_save(flags);
	r->vector = read_msr(r->a, &before);
	if (r->vector == NONE)
		r->vector = write_msr(r->a, r->b);
	if (r->vector == NONE) {
		r->c = 0;
		asm volatile(TRY("mov (%[p]), %[value]")
			     : "=&a" (vector), [value] "+r" (r->c) : [p] "r" (page) : "memory");
		r->b = vector;
		r->vector = vtl_call(CALL_VTL, 0, virt_to_phys(r->page));
		write_msr(r->a, before);
	}
	local_irq_restore(flags);
	iounmap(page);
	return 0;
}

static int port(struct vtx_request *r)
{
	bool in = r->what == VTX_IN;

	if (r->a > 0xffff)
		return -EINVAL;
	switch (r->b) {
	case 1:
		if (in)
			r->c = inb(r->a);
		else
			outb(r->c, r->a);
		return 0;
	case 2:
		if (in)
			r->c = inw(r->a);
		else
			outw(r->c, r->a);
		return 0;
	case 4:
		if (in)
			r->c = inl(r->a);
		else
			outl(r->c, r->a);
		return 0;
	}
	return -EINVAL;
}

static int attack(struct vtx_request *r)
{
	r->vector = NONE;
	switch (r->what) {
	case VTX_READ:
	case VTX_WRITE:
	case VTX_READ_OOPS:
		return touch(r);
	case VTX_EXECUTE:
		return execute(r);
	case VTX_RDMSR:
		r->vector = read_msr(r->a, &r->c);
		return 0;
	case VTX_WRMSR:
		change_msr(r);
		return 0;
	case VTX_CR:
		return change_cr(r);
	case VTX_VMX:
		return vmx(r);
	case VTX_HYPERCALL:
		hypercall(r);
		return 0;
	case VTX_VTL_CALL:
		r->vector = vtl_call(r->a, r->b, address_or_page(r, r->c));
		return 0;
	case VTX_SOAK:
		return soak(r);
	case VTX_IN:
	case VTX_OUT:
		return port(r);
	case VTX_MOVE:
		return move(r);
	case VTX_OUTS:
	case VTX_INS:
		return string_io(r);
	case VTX_WALK:
		return walk(r);
	case VTX_OVERLAY:
		return overlay(r);
	}
	return -EINVAL;
}

/* The device */

static bool hypervisor; /* there is one that has Hyper-V's interface */

/* Two pages, so that the request's own is the second of them. */
#define REQUEST_ORDER 1

static long vtx_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	struct vtx_request *r;
	unsigned long pages;
	long error;

	if (command != VTX_DO)
		return -ENOTTY;
	if (!hypervisor)
		return -ENODEV;
	pages = __get_free_pages(GFP_KERNEL | __GFP_ZERO, REQUEST_ORDER);
	if (!pages)
		return -ENOMEM;
	r = (void *)(pages + PAGE_SIZE - offsetof(struct vtx_request, page));
	error = -EFAULT;
	if (!copy_from_user(r, user, sizeof(*r))) {
		error = attack(r);
		if (!error && copy_to_user(user, r, sizeof(*r)))
			error = -EFAULT;
	}
	free_pages(pages, REQUEST_ORDER);
	return error;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = vtx_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vtx",
	.mode = 0600,
	.fops = &operations,
};

static int __init vtx_init(void)
{
	BUILD_BUG_ON(offsetof(struct vtx_request, page) != 32);
	BUILD_BUG_ON(sizeof(struct call) != PAGE_SIZE);
	hypervisor = boot_cpu_has(X86_FEATURE_HYPERVISOR) && cpuid_eax(0x40000000) >= 0x40000005 &&
		     cpuid_eax(0x40000001) == 0x31237648; /* "Hv#1" */
	if (!hypervisor)
		pr_info("no hypervisor: no attacks\n");
	return misc_register(&device);
}

static void __exit vtx_exit(void)
{
	misc_deregister(&device);
	irq_work_sync(&interrupt);
}

module_init(vtx_init);
module_exit(vtx_exit);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Attacks on a hypervisor and on a higher virtual trust level");
