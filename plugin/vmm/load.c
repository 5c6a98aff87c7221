/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* load.c: checks the guest's ELF image, every field of it, and copies its segments into guest memory. */
#include <elf.h>
#include <string.h>

#include "vmm.h"
#include "common.h"
#include "guest_image.h"

const void *load_embedded(uint64_t *size)
{
    *size = vr_guest_image_size;
    return crc32c(0, vr_guest_image, vr_guest_image_size) == vr_guest_image_crc ? vr_guest_image : NULL;
}

static bool in_file(uint64_t offset, uint64_t len, uint64_t size)
{
    return offset <= size && len <= size - offset;
}

static const char *check_header(const Elf64_Ehdr *e, uint64_t size)
{
    static const unsigned char ident[] = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT};

    if (memcmp(e->e_ident, ident, sizeof(ident)) != 0 || e->e_type != ET_EXEC || e->e_machine != EM_X86_64)
        return "not an x86_64 executable";
    if (e->e_phentsize != sizeof(Elf64_Phdr) || e->e_phnum == 0 || e->e_phnum > 16 ||
        !in_file(e->e_phoff, (uint64_t)e->e_phnum * sizeof(Elf64_Phdr), size))
        return "its program headers are damaged";
    return NULL;
}

/* The note that names the ABI: name "VR", type 1, one version number. */
static const char *check_note(const uint8_t *elf, const Elf64_Phdr *p, uint64_t size)
{
    struct {
        uint32_t namesz, descsz, type;
        char name[4];
        uint32_t version;
    } note;

    if (p->p_filesz < sizeof(note) || !in_file(p->p_offset, sizeof(note), size))
        return "its ABI note is damaged";
    memcpy(&note, elf + p->p_offset, sizeof(note));
    if (note.namesz != 3 || note.descsz != 4 || note.type != VR_NOTE_TYPE || memcmp(note.name, VR_NOTE_NAME, 3) != 0)
        return "its ABI note is damaged";
    return note.version == VR_ABI_VERSION ? NULL : "it speaks another ABI version";
}

static const char *load_segment(const uint8_t *elf, const Elf64_Phdr *p, uint64_t size, uint8_t *memory,
                                struct load *l)
{
    if (p->p_memsz == 0)
        return NULL;
    if (l->nsegments == LOAD_SEGMENTS_MAX)
        return "it has too many segments";
    if (p->p_vaddr % VR_PAGE_SIZE != 0 || p->p_vaddr < VR_GPA_IMAGE || p->p_vaddr >= VR_GPA_IMAGE_END ||
        p->p_memsz > VR_GPA_IMAGE_END - p->p_vaddr)
        return "a segment lies outside its place";
    if (p->p_filesz > p->p_memsz || !in_file(p->p_offset, p->p_filesz, size))
        return "a segment lies outside the file";
    if ((p->p_flags & (PF_W | PF_X)) == (PF_W | PF_X))
        return "a segment is writable and executable";
    struct load_segment s = {.start = p->p_vaddr,
                             .end = (p->p_vaddr + p->p_memsz + VR_PAGE_SIZE - 1) & ~(uint64_t)(VR_PAGE_SIZE - 1),
                             .write = p->p_flags & PF_W,
                             .execute = p->p_flags & PF_X};
    for (unsigned i = 0; i < l->nsegments; i++)
        if (s.start < l->segments[i].end && l->segments[i].start < s.end)
            return "its segments overlap";
    l->segments[l->nsegments++] = s;
    memcpy(memory + p->p_vaddr, elf + p->p_offset, p->p_filesz);
    return NULL;
}

static bool entry_is_code(const struct load *l)
{
    for (unsigned i = 0; i < l->nsegments; i++)
        if (l->segments[i].execute && l->entry >= l->segments[i].start && l->entry < l->segments[i].end)
            return true;
    return false;
}

const char *load_guest(const void *elf, uint64_t size, uint8_t *memory, struct load *l)
{
    const uint8_t *bytes = elf;
    const char *fault = NULL;
    bool noted = false;
    Elf64_Ehdr e;

    *l = (struct load){0};
    if (size < sizeof(e))
        return "it is too short";
    memcpy(&e, elf, sizeof(e));
    fault = check_header(&e, size);
    for (unsigned i = 0; !fault && i < e.e_phnum; i++) {
        Elf64_Phdr p;
        memcpy(&p, bytes + e.e_phoff + i * sizeof(p), sizeof(p));
        if (p.p_type == PT_NOTE) {
            fault = check_note(bytes, &p, size);
            noted = true;
        } else if (p.p_type == PT_LOAD) {
            fault = load_segment(bytes, &p, size, memory, l);
        }
    }
    l->entry = e.e_entry;
    if (!fault && !noted)
        fault = "it has no ABI note";
    if (!fault && !entry_is_code(l))
        fault = "its entry is not code";
    return fault;
}
