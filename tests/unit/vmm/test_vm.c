/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_vm.c: what accel_kvm.c chooses by the host's CPUID and by the size of the guest's memory. */
#include "unit.h"

#define TCG       "TCGTCGTCGTCG"
#define AVAILABLE 9
#define BUSY      11

static void only_tcg_gets_an_available_tss(void **state)
{
    static const char others[][VM_SIGNATURE + 1] = {
        "KVMKVMKVM\0\0\0", "Microsoft Hv", "VMwareVMware", "XenVMMXenVMM", "VBoxVBoxVBox", "ACRNACRNACRN",
        "bhyve bhyve ", "tcgtcgtcgtcg", "\0\0\0\0\0\0\0\0\0\0\0\0",
    };

    (void)state;
    assert_int_equal(vm_tss_type(true, TCG), AVAILABLE);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_int_equal(vm_tss_type(true, others[i]), BUSY);
}

static void each_byte_of_the_signature_counts(void **state)
{
    (void)state;
    for (unsigned i = 0; i < VM_SIGNATURE; i++) {
        char signature[] = TCG;
        signature[i] ^= 1;
        assert_int_equal(vm_tss_type(true, signature), BUSY);
    }
}

/* Without a hypervisor the leaf is none: a processor answers with that of another one. */
static void no_hypervisor_no_signature(void **state)
{
    (void)state;
    assert_int_equal(vm_tss_type(false, TCG), BUSY);
}

static void identity_map_lies_on_the_first_page_behind_the_memory(void **state)
{
    static const uint64_t sizes[] = {VR_GPA_HEAP + 1, UINT64_C(1) << 30, UINT64_C(0xfffbc000), UINT64_C(0xfffbc001),
                                     UINT64_C(0xfffbcfff), UINT64_C(5) << 30, (UINT64_C(5) << 30) - 1};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t at = vm_identity_map(sizes[i]);
        assert_int_equal(at % VR_PAGE_SIZE, 0);
        assert_in_range(at, sizes[i], sizes[i] + VR_PAGE_SIZE - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_tcg_gets_an_available_tss),
        cmocka_unit_test(each_byte_of_the_signature_counts),
        cmocka_unit_test(no_hypervisor_no_signature),
        cmocka_unit_test(identity_map_lies_on_the_first_page_behind_the_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
