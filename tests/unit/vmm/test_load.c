/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_load.c: the loader of guest images: the real one, with every bit of its headers flipped, at every length. */
#include "unit.h"

#include <elf.h>

static uint8_t *memory; /* of a guest, up to the end of where its image may lie, then a page that must not be touched */
static const uint8_t *real;
static uint64_t real_size;

static int set_up(void **state)
{
    (void)state;
    memory = mmap(NULL, VR_GPA_IMAGE_END + VR_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    /* Only the image's own place may be written. */
    assert_int_equal(mprotect(memory, VR_GPA_IMAGE, PROT_NONE), 0);
    assert_int_equal(mprotect(memory + VR_GPA_IMAGE_END, VR_PAGE_SIZE, PROT_NONE), 0);
    real = load_embedded(&real_size);
    assert_non_null(real);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return munmap(memory, VR_GPA_IMAGE_END + VR_PAGE_SIZE);
}

/* Whatever was accepted is a sound map: in its place, page by page, no overlap, no page writable and executable. */
static void assert_sound(const struct load *l)
{
    bool entry = false;

    assert_in_range(l->nsegments, 1, LOAD_SEGMENTS_MAX);
    for (unsigned i = 0; i < l->nsegments; i++) {
        const struct load_segment *s = &l->segments[i];
        assert_true(s->start >= VR_GPA_IMAGE && s->start < s->end && s->end <= VR_GPA_IMAGE_END);
        assert_true(s->start % VR_PAGE_SIZE == 0 && s->end % VR_PAGE_SIZE == 0);
        assert_false(s->write && s->execute);
        entry = entry || (s->execute && l->entry >= s->start && l->entry < s->end);
        for (unsigned j = 0; j < i; j++)
            assert_true(s->end <= l->segments[j].start || l->segments[j].end <= s->start);
    }
    assert_true(entry);
}

/* Loads a copy that ends where the memory checker sees every byte behind it. */
static const char *load_copy(const uint8_t *elf, uint64_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    struct load l;

    assert_non_null(copy);
    memcpy(copy, elf, size);
    const char *fault = load_guest(copy, size, memory, &l);
    if (!fault)
        assert_sound(&l);
    free(copy);
    return fault;
}

static void the_real_one_loads(void **state)
{
    struct load l;

    (void)state;
    assert_null(load_guest(real, real_size, memory, &l));
    assert_sound(&l);
    for (unsigned i = 0; i < l.nsegments; i++)
        assert_false(l.segments[i].write);
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)real;
    const Elf64_Phdr *p = (const Elf64_Phdr *)(real + e->e_phoff);
    assert_int_equal(p->p_type, PT_LOAD);
    assert_memory_equal(memory + p->p_vaddr, real + p->p_offset, p->p_filesz);
}

static uint64_t headers_size(void)
{
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)real;

    return e->e_phoff + (uint64_t)e->e_phnum * sizeof(Elf64_Phdr);
}

static void every_bit_of_the_headers(void **state)
{
    uint8_t *elf = malloc(real_size);
    unsigned refused = 0;

    (void)state;
    assert_non_null(elf);
    memcpy(elf, real, real_size);
    for (uint64_t at = 0; at < headers_size(); at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            elf[at] ^= (uint8_t)(1u << bit);
            refused += load_copy(elf, real_size) != NULL;
            elf[at] ^= (uint8_t)(1u << bit);
        }
    }
    /* Some fields do not matter (section headers, physical addresses); most do. */
    assert_true(refused > headers_size() * 2);
    assert_null(load_copy(elf, real_size));
    free(elf);
}

static void random_headers(void **state)
{
    uint8_t *elf = malloc(real_size);
    uint64_t seed = 11;

    (void)state;
    assert_non_null(elf);
    for (unsigned round = 0; round < 3000; round++) {
        memcpy(elf, real, real_size);
        for (unsigned n = (unsigned)(unit_random(&seed) % 6) + 1; n > 0; n--) {
            uint64_t at = unit_random(&seed) % headers_size();
            unit_fill(&seed, elf + at, at % 8 == 0 && at + 8 <= headers_size() ? 8 : 1);
        }
        (void)load_copy(elf, real_size);
    }
    free(elf);
}

static void every_length(void **state)
{
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)real;
    uint64_t needed = 0;

    (void)state;
    for (unsigned i = 0; i < e->e_phnum; i++) {
        Elf64_Phdr p;
        memcpy(&p, real + e->e_phoff + i * sizeof(p), sizeof(p));
        if (p.p_type == PT_LOAD && p.p_offset + p.p_filesz > needed)
            needed = p.p_offset + p.p_filesz;
    }
    for (uint64_t size = 0; size < real_size; size += size < 1024 || size + 64 > needed ? 1 : 509)
        assert_int_equal(load_copy(real, size) == NULL, size >= needed);
}

static void too_many_segments(void **state)
{
    struct {
        Elf64_Ehdr e;
        Elf64_Phdr p[LOAD_SEGMENTS_MAX + 1];
    } image = {.e = {.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_phoff = sizeof(Elf64_Ehdr),
                     .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = LOAD_SEGMENTS_MAX + 1, .e_entry = VR_GPA_IMAGE}};

    (void)state;
    memcpy(image.e.e_ident, real, 16);
    for (unsigned i = 0; i <= LOAD_SEGMENTS_MAX; i++)
        image.p[i] = (Elf64_Phdr){.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_memsz = 1,
                                  .p_vaddr = VR_GPA_IMAGE + i * VR_PAGE_SIZE};
    assert_string_equal(load_copy((const uint8_t *)&image, sizeof(image)), "it has too many segments");
    image.e.e_phnum--;
    assert_string_equal(load_copy((const uint8_t *)&image, sizeof(image)), "it has no ABI note");
    image.e.e_phnum = 17;
    assert_string_equal(load_copy((const uint8_t *)&image, sizeof(image)), "its program headers are damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_real_one_loads),
        cmocka_unit_test(every_bit_of_the_headers),
        cmocka_unit_test(random_headers),
        cmocka_unit_test(every_length),
        cmocka_unit_test(too_many_segments),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
