/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest_fault.c: attacks on the processor's walls: what is not mapped, writable, code, or allowed in ring 3. */
#include "guest.h"

typedef void code_fn(void);

static void touch(uint64_t at)
{
    volatile uint8_t *p = (volatile uint8_t *)at;
    uint8_t byte = *p;

    __asm__ volatile("" : : "r"(byte));
}

static void store(uint64_t at)
{
    *(volatile uint8_t *)at = 0x90;
}

/* Puts a RET there, where it can, and calls it. */
static void execute(uint64_t at)
{
    *(volatile uint8_t *)at = 0xc3;
    ((code_fn *)at)();
}

#define INSTRUCTION(name, text) \
    void attack_##name(void) { __asm__ volatile(text : : : "rax", "rcx", "rdx", "rsi", "r11", "memory"); }
#define TOUCH(name, at) void attack_##name(void) { touch(at); }
#define STORE(name, at) void attack_##name(void) { store(at); }
#define EXECUTE(name, at) void attack_##name(void) { execute(at); }

TOUCH(page0_read, 0)
TOUCH(tables_read, 0x1000)
TOUCH(directory_read, 0x10000)
TOUCH(gdt_read, 0x80000)
STORE(tss_write, 0x81066)
STORE(boot_write, VR_GPA_BOOT + 8)
STORE(text_write, VR_GPA_IMAGE)
TOUCH(heap_beyond, VR_GPA_HEAP + BOOT->heap_size)
TOUCH(gap_read, VR_GPA_IMAGE_END)
TOUCH(between_ring_and_image, 0x1ff000)
TOUCH(mmio_read, 0xfee00000)
TOUCH(high_half, 0xffff800000000000)
TOUCH(non_canonical, 0x0000900000000000)
EXECUTE(ring_execute, VR_GPA_RING + offsetof(struct vr_ring, cq))
EXECUTE(data_execute, (uint64_t)(uintptr_t)data_page)
EXECUTE(heap_execute, VR_GPA_HEAP)
EXECUTE(stack_execute, VR_GPA_STACK)

INSTRUCTION(ud2, "ud2")
INSTRUCTION(divide_error, "xorl %%eax, %%eax; xorl %%edx, %%edx; divl %%eax")
INSTRUCTION(hlt, "hlt")
INSTRUCTION(cli, "cli")
INSTRUCTION(port_other, "movl $0x3f8, %%edx; xorl %%eax, %%eax; outb %%al, %%dx")
INSTRUCTION(port_low, "movl $0x5651, %%edx; xorl %%eax, %%eax; outb %%al, %%dx")
INSTRUCTION(port_high, "movl $0xffff, %%edx; xorl %%eax, %%eax; outb %%al, %%dx")
INSTRUCTION(port_byte, "movl $0x5652, %%edx; xorl %%eax, %%eax; outb %%al, %%dx")
INSTRUCTION(port_word, "movl $0x5652, %%edx; xorl %%eax, %%eax; outw %%ax, %%dx")
INSTRUCTION(port_in, "movl $0x5652, %%edx; inl %%dx, %%eax")
INSTRUCTION(port_straddle, "movl $0x5653, %%edx; xorl %%eax, %%eax; outl %%eax, %%dx")
INSTRUCTION(syscall, "movl $60, %%eax; syscall")
INSTRUCTION(sysenter, "movl $1, %%eax; sysenter")
INSTRUCTION(int80, "movl $1, %%eax; int $0x80")
INSTRUCTION(int3, "int3")
INSTRUCTION(lgdt, "movl $0x800000, %%eax; lgdt (%%rax)")
INSTRUCTION(lidt, "movl $0x800000, %%eax; lidt (%%rax)")
INSTRUCTION(wrmsr, "movl $0xc0000080, %%ecx; movl $0xd01, %%eax; xorl %%edx, %%edx; wrmsr")
INSTRUCTION(mov_cr3, "xorl %%eax, %%eax; movq %%rax, %%cr3")
INSTRUCTION(endless_loop, "1: jmp 1b")

void attack_rodata_write(void)
{
    static const uint8_t constant = 1;

    store((uint64_t)(uintptr_t)&constant);
}

/* Ring 0 by a far call through the task state segment's descriptor, the only system selector there could be. */
void attack_far_call(void)
{
    const struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) target = {VR_GPA_IMAGE, 0x28};

    __asm__ volatile(".byte 0xff, 0x18" : : "a"(&target) : "memory"); /* lcall *(%rax), by its bytes: dialects differ */
}

void attack_stack_overflow(void)
{
    __asm__ volatile("1: pushq %%rax; jmp 1b" : : : "memory");
}

/* As if vr_guest_main() returned: what start.S has behind the call. */
void attack_return_from_main(void)
{
    /* _start aligned the stack to 16 bytes and called: there lies where it goes on. */
    __asm__ volatile("movq %0, %%rsp; ret" : : "i"(VR_GPA_STACK_END - 16 - 8) : "memory");
}

/* The doorbell as a string instruction: a doorbell like any other. */
void attack_port_string(void)
{
    const void *from = HEAP;

    __asm__ volatile("outsl" : "+S"(from) : "d"((uint16_t)VR_PORT_DOORBELL) : "memory");
    finish();
}

/* Rings and rings, but nothing goes on. */
void attack_ring_nothing_forever(void)
{
    for (;;)
        vr_doorbell(0);
}

/* Always busy: only an abort ends it. */
void attack_read_forever(void)
{
    const struct vr_sqe q = good_read();

    for (;;)
        (void)call(&q);
}
