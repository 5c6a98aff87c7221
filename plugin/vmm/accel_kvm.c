/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * accel_kvm.c: the KVM guest: one memslot, page tables with exact permissions, ring 3 in long mode, one legal exit.
 *
 * There is no ring-0 code, no interrupt and no device in the guest. Any fault finds no descriptor table and becomes a
 * triple fault, which KVM reports as KVM_EXIT_SHUTDOWN.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm.h"

/* Below VR_GPA_BOOT, mapped nowhere in the guest. */
#define GPA_PML4 0x1000u
#define GPA_PDPT 0x2000u
#define GPA_PT   0x3000u  /* four tables: the first 8 MiB in 4 KiB pages */
#define GPA_PD   0x10000u /* one a GiB */
#define GPA_GDT  0x80000u
#define GPA_TSS  0x81000u /* 104 bytes, then the I/O permission bitmap up to the doorbell's port */
#define TSS_SIZE 104u
#define TSS_IOPB (TSS_SIZE - 2) /* where it says where the bitmap begins */
#define PDS_MAX  ((GPA_GDT - GPA_PD) / VR_PAGE_SIZE)

#define PTE_P    UINT64_C(0x01)
#define PTE_W    UINT64_C(0x02)
#define PTE_U    UINT64_C(0x04)
#define PTE_AD   UINT64_C(0x60) /* accessed and dirty already: nothing has to write them */
#define PTE_PS   UINT64_C(0x80)
#define PTE_NX   (UINT64_C(1) << 63)
#define TABLE    (PTE_P | PTE_W | PTE_U | PTE_AD)
#define CPUID_ENTRIES 128u
#define CPUID_HYPERVISOR 0x40000000u /* the leaf with the signature of the hypervisor that this host runs under */
#define TSS_AVAILABLE 9u
#define TSS_BUSY      11u
#define MIB2     (UINT64_C(1) << 21)

/* ---- page tables ----------------------------------------------------------------------------------------- */

static uint64_t *table_at(struct child *c, uint64_t gpa)
{
    return (uint64_t *)(void *)(c->memory + gpa);
}

static void map_pages(struct child *c, uint64_t start, uint64_t end, uint64_t flags)
{
    for (uint64_t at = start; at < end; at += VR_PAGE_SIZE)
        table_at(c, GPA_PT)[at / VR_PAGE_SIZE] = at | PTE_P | PTE_AD | flags;
}

static void map_image(struct child *c)
{
    for (unsigned i = 0; i < c->load.nsegments; i++) {
        const struct load_segment *s = &c->load.segments[i];
        map_pages(c, s->start, s->end, PTE_U | (s->write ? PTE_W : 0) | (s->execute ? 0 : PTE_NX));
    }
}

static void map_heap(struct child *c)
{
    for (uint64_t at = VR_GPA_HEAP; at < VR_GPA_HEAP + c->heap_size; at += MIB2)
        table_at(c, GPA_PD)[at / MIB2] = at | PTE_P | PTE_W | PTE_U | PTE_AD | PTE_PS | PTE_NX;
}

static void build_page_tables(struct child *c)
{
    uint64_t pds = (VR_GPA_HEAP + c->heap_size + (UINT64_C(1) << 30) - 1) >> 30;

    table_at(c, GPA_PML4)[0] = GPA_PDPT | TABLE;
    for (uint64_t i = 0; i < pds; i++)
        table_at(c, GPA_PDPT)[i] = (GPA_PD + i * VR_PAGE_SIZE) | TABLE;
    for (uint64_t i = 0; i < VR_GPA_HEAP / MIB2; i++)
        table_at(c, GPA_PD)[i] = (GPA_PT + i * VR_PAGE_SIZE) | TABLE;
    map_pages(c, VR_GPA_BOOT, VR_GPA_BOOT + VR_PAGE_SIZE, PTE_U | PTE_NX);
    map_pages(c, VR_GPA_RING, VR_GPA_RING + sizeof(struct vr_ring), PTE_U | PTE_W | PTE_NX);
    map_pages(c, VR_GPA_STACK, VR_GPA_STACK_END, PTE_U | PTE_W | PTE_NX);
    /* The processor itself reads these two, at linear addresses; ring 3 cannot. */
    map_pages(c, GPA_GDT, GPA_TSS + TSS_SIZE + VR_PORT_DOORBELL / 8 + 4, PTE_NX);
    map_image(c);
    map_heap(c);
}

/* ---- registers ------------------------------------------------------------------------------------------------- */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code)
{
    return (struct kvm_segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .dpl = 3,
                                .db = !code, .s = 1, .l = code, .g = 1};
}

/* The one port that ring 3 may use, by the I/O permission bitmap; IOPL stays 0. Returns the segment's limit. */
static uint32_t build_tss(struct child *c)
{
    uint8_t *tss = c->memory + GPA_TSS;
    const uint16_t bitmap_at = TSS_SIZE;
    const uint32_t bytes = VR_PORT_DOORBELL / 8 + 2; /* a 4-byte OUT looks at four bits */

    memcpy(tss + TSS_IOPB, &bitmap_at, sizeof(bitmap_at));
    memset(tss + bitmap_at, 0xff, bytes + 1);
    for (uint32_t port = VR_PORT_DOORBELL; port < VR_PORT_DOORBELL + 4; port++)
        tss[bitmap_at + port / 8] &= (uint8_t)~(1u << port % 8);
    return TSS_SIZE + bytes;
}

/*
 * A running task's TSS is busy: VMX's entry checks want that, and SVM takes it. The SVM that QEMU's TCG emulates looks
 * for an available one where ring 3 uses a port, and ends the guest otherwise.
 */
uint8_t vm_tss_type(bool hypervisor, const char signature[VM_SIGNATURE])
{
    return hypervisor && memcmp(signature, "TCGTCGTCGTCG", VM_SIGNATURE) == 0 ? TSS_AVAILABLE : TSS_BUSY;
}

static uint8_t tss_type_here(void)
{
    uint32_t eax, ebx, ecx, edx, signature[VM_SIGNATURE / sizeof(uint32_t)];

    __cpuid(1, eax, ebx, ecx, edx);
    bool hypervisor = ecx & 1u << 31;
    __cpuid(CPUID_HYPERVISOR, eax, signature[0], signature[1], signature[2]);
    return vm_tss_type(hypervisor, (const char *)signature);
}

static int set_registers(struct child *c)
{
    static const uint64_t gdt[] = {0, 0, 0, UINT64_C(0x00affb000000ffff), UINT64_C(0x00cff3000000ffff)};
    struct kvm_regs regs = {.rip = c->load.entry, .rsp = VR_GPA_STACK_END - 8, .rflags = 0x2};
    struct kvm_sregs s;

    memcpy(c->memory + GPA_GDT, gdt, sizeof(gdt));
    if (ioctl(c->vcpu_fd, KVM_GET_SREGS, &s) < 0)
        return -errno;
    s.cs = segment(0x1b, 11, true);
    s.ds = s.es = s.fs = s.gs = s.ss = segment(0x23, 3, false);
    s.gdt = (struct kvm_dtable){.base = GPA_GDT, .limit = sizeof(gdt) - 1};
    s.idt = (struct kvm_dtable){0};
    s.tr = (struct kvm_segment){.base = GPA_TSS, .limit = build_tss(c), .selector = 0x28, .type = tss_type_here(),
                                .present = 1};
    s.cr0 = 0x80010033; /* PG WP NE ET MP PE */
    s.cr3 = GPA_PML4;
    s.cr4 = 0x620;      /* OSXMMEXCPT OSFXSR PAE */
    s.efer = 0xd00;     /* NXE LMA LME; no SCE: there is nothing to call */
    if (ioctl(c->vcpu_fd, KVM_SET_SREGS, &s) < 0 || ioctl(c->vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return -errno;
    return 0;
}

/* The host's own features, NX among them. */
static void *ask_cpuid(void *arg)
{
    struct cpuid *q = arg;

    q->id = calloc(1, sizeof(*q->id) + CPUID_ENTRIES * sizeof(q->id->entries[0]));
    if (!q->id) {
        q->err = ENOMEM;
        return NULL;
    }
    q->id->nent = CPUID_ENTRIES;
    q->err = ioctl(q->kvm_fd, KVM_GET_SUPPORTED_CPUID, q->id) < 0 ? errno : 0;
    return NULL;
}

/* Returns errno. */
static int set_cpuid(struct child *c)
{
    struct cpuid *q = &c->cpuid;

    pthread_join(q->thread, NULL);
    if (!q->err && ioctl(c->vcpu_fd, KVM_SET_CPUID2, q->id) < 0)
        q->err = errno;
    free(q->id);
    return q->err;
}

/* ---- setting up -------------------------------------------------------------------------------------------------- */

static void need(struct child *c, bool ok, const char *what)
{
    if (!ok)
        child_fail(c, VMM_FAIL_KVM, errno, what);
}

uint64_t vm_identity_map(uint64_t memory_size)
{
    return (memory_size + VR_PAGE_SIZE - 1) / VR_PAGE_SIZE * VR_PAGE_SIZE;
}

/*
 * The guest's memory in one slot. On an Intel processor without unrestricted guest, KVM has a page table of its own in
 * the guest's address space, at 0xfffbc000 unless it is told another place before the vCPU is made: a larger guest has
 * memory there. The guest's own tables do not map it.
 */
static void set_memory(struct child *c, int kvm, int vm)
{
    struct kvm_userspace_memory_region slot = {.memory_size = c->memory_size,
                                               .userspace_addr = (uint64_t)(uintptr_t)c->memory};
    uint64_t identity_map = vm_identity_map(c->memory_size);

    need(c, ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
    int movable = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR);
    need(c, movable >= 0, "KVM_CAP_SET_IDENTITY_MAP_ADDR");
    if (movable)
        need(c, ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) == 0, "KVM_SET_IDENTITY_MAP_ADDR");
}

const char *vm_open(struct child *c)
{
    int kvm = c->cfg->kvm_fd;

    errno = 0;
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return "KVM_GET_API_VERSION";
    if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return "KVM_CAP_IMMEDIATE_EXIT";
    c->cpuid = (struct cpuid){.kvm_fd = kvm};
    errno = pthread_create(&c->cpuid.thread, NULL, ask_cpuid, &c->cpuid);
    if (errno)
        return "starting a thread";
    c->vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
    if (c->vm_fd >= 0)
        return NULL;
    int err = errno;
    pthread_join(c->cpuid.thread, NULL);
    free(c->cpuid.id);
    errno = err;
    return "KVM_CREATE_VM";
}

void vm_prepare(struct child *c)
{
    int kvm = c->cfg->kvm_fd, vm = c->vm_fd;

    if (c->heap_size > (uint64_t)(PDS_MAX - 1) << 30)
        child_fail(c, VMM_FAIL_MEMORY, 0, "the memory budget is larger than a guest can be");
    set_memory(c, kvm, vm);
    c->vcpu_fd = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(c, c->vcpu_fd >= 0, "KVM_CREATE_VCPU");
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    need(c, size >= (int)sizeof(struct kvm_run), "KVM_GET_VCPU_MMAP_SIZE");
    c->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu_fd, 0);
    need(c, c->run != MAP_FAILED, "mapping the vCPU");
    build_page_tables(c);
    errno = set_cpuid(c);
    need(c, errno == 0, "KVM_SET_CPUID2");
    errno = -set_registers(c);
    need(c, errno == 0, "KVM_SET_SREGS");
}

/* ---- running ------------------------------------------------------------------------------------------------------- */

static const char *exit_name(uint32_t reason)
{
    static const char *const names[] = {
        [KVM_EXIT_UNKNOWN] = "unknown",         [KVM_EXIT_EXCEPTION] = "exception",
        [KVM_EXIT_IO] = "a port that is not the doorbell", [KVM_EXIT_HYPERCALL] = "hypercall",
        [KVM_EXIT_HLT] = "halt",                [KVM_EXIT_MMIO] = "memory that is not there",
        [KVM_EXIT_SHUTDOWN] = "triple fault",   [KVM_EXIT_FAIL_ENTRY] = "entry failed",
        [KVM_EXIT_INTERNAL_ERROR] = "KVM internal error",
    };

    return reason < sizeof(names) / sizeof(names[0]) && names[reason] ? names[reason] : "unexpected exit";
}

static void crashed(struct child *c)
{
    struct kvm_regs regs = {0};
    char text[200];

    (void)ioctl(c->vcpu_fd, KVM_GET_REGS, &regs);
    snprintf(text, sizeof(text), "%s (exit %u) at %#llx", exit_name(c->run->exit_reason), c->run->exit_reason,
             (unsigned long long)regs.rip);
    child_fail(c, VMM_FAIL_GUEST_CRASH, 0, text);
}

static bool is_doorbell(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
           run->io.port == VR_PORT_DOORBELL && run->io.size == 4 && run->io.count == 1;
}

void vm_run(struct child *c)
{
    for (;;) {
        atomic_store(&c->in_guest, true);
        int err = ioctl(c->vcpu_fd, KVM_RUN, 0) < 0 ? errno : 0;
        atomic_store(&c->in_guest, false);
        c->stats.exits++;
        child_check_stop(c);
        if (err == EINTR || err == EAGAIN)
            continue;
        if (err)
            child_fail(c, VMM_FAIL_KVM, err, "KVM_RUN");
        if (!is_doorbell(c->run))
            crashed(c);
        uint32_t want;
        memcpy(&want, (uint8_t *)c->run + c->run->io.data_offset, sizeof(want));
        ring_doorbell(&c->ring, want);
    }
}
