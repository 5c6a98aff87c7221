/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_options.c: the command line, --image-opts strings, sizes. */
#include "unit.h"

/* words: the command line after the program's name, blanks between. NULL error = it must parse. */
static void expect(const char *words, struct options *opt, const char *message)
{
    g_autofree char *line = g_strconcat("vol-repair ", words, NULL);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    g_autoptr(GPtrArray) pointers = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    bool ok;

    for (char **word = argv; *word; word++)
        g_ptr_array_add(pointers, *word);
    g_ptr_array_add(pointers, NULL);
    ok = options_parse(opt, (int)pointers->len - 1, (char **)pointers->pdata, &error);
    if (message) {
        assert_false(ok);
        assert_string_equal(error->message, message);
    } else if (!ok) {
        fail_msg("'%s': %s", words, error->message);
    }
}

static void refuse(const char *words, const char *message)
{
    struct options opt;

    expect(words, &opt, message);
    options_clear(&opt);
}

static void defaults(void **state)
{
    struct options opt;

    (void)state;
    expect("a.qcow2", &opt, NULL);
    assert_int_equal(opt.mode, FRONT_CHECK);
    assert_false(opt.own_mode);
    assert_int_equal(opt.accel, VMM_ACCEL_AUTO);
    assert_int_equal(opt.memory, 256 << 20);
    assert_int_equal(opt.timeout, 30);
    assert_int_equal(opt.examples, 100);
    assert_string_equal(opt.path, "a.qcow2");
    assert_null(opt.format);
    options_clear(&opt);
}

static void subcommand(void **state)
{
    struct options opt;

    (void)state;
    expect("check -f qcow2 a.qcow2", &opt, NULL);
    assert_string_equal(opt.path, "a.qcow2");
    options_clear(&opt);
    expect("-q check", &opt, NULL);
    assert_string_equal(opt.path, "check");
    options_clear(&opt);
    refuse("check", "Expecting one image file name");
    refuse("check a b", "Expecting one image file name");
}

static void repair_last_wins(void **state)
{
    struct options opt;

    (void)state;
    expect("-r all --repair leaks a", &opt, NULL);
    assert_int_equal(opt.mode, FRONT_LEAKS);
    options_clear(&opt);
    expect("a -r leaks -r all", &opt, NULL);
    assert_int_equal(opt.mode, FRONT_ALL);
    options_clear(&opt);
}

static void every_option(void **state)
{
    struct options opt;

    (void)state;
    expect("--mode=undo --undo=j --accel=process --memory=1G --timeout=0 --report=r --max-messages=7 --stream "
           "--image-fd=5 --name=n -f qcow2 -q -p --undo-max-count=3 --undo-max-total=40 --undo-max-bytes=5M --undo-max-age=0 "
           "file",
           &opt, NULL);
    assert_int_equal(opt.mode, FRONT_UNDO);
    assert_true(opt.own_mode);
    assert_string_equal(opt.undo, "j");
    assert_int_equal(opt.undo_max_count, 3);
    assert_int_equal(opt.undo_max_total, 40);
    assert_int_equal(opt.undo_max_bytes, 5 << 20);
    assert_int_equal(opt.undo_max_age, 0);
    assert_int_equal(opt.accel, VMM_ACCEL_PROCESS);
    assert_int_equal(opt.memory, UINT64_C(1) << 30);
    assert_int_equal(opt.timeout, 0);
    assert_string_equal(opt.report, "r");
    assert_int_equal(opt.examples, 7);
    assert_true(opt.stream);
    assert_int_equal(opt.image_fd, 5);
    assert_string_equal(options_shown_name(&opt), "n");
    assert_string_equal(opt.format, "qcow2");
    assert_true(opt.quiet);
    assert_int_equal(opt.progress, PROGRESS_ALWAYS);
    options_clear(&opt);
}

/* The texts of qemu-img 7.2. */
static void qemu_errors(void **state)
{
    (void)state;
    refuse("a b", "Expecting one image file name");
    refuse("-r", "missing argument for option '-r'");
    refuse("-r foo a", "Unknown option value for -r (expecting 'leaks' or 'all'): foo");
    refuse("--output=xml a", "--output must be used with human or json as argument.");
    refuse("-T bad a", "Invalid source cache option: bad");
    refuse("--foo a", "unrecognized option '--foo'");
    refuse("--image-opts -f qcow2 a", "--image-opts and --format are mutually exclusive");
}

static void own_errors(void **state)
{
    (void)state;
    refuse("--mode=foo a", "--mode expects 'check', 'leaks', 'all' or 'undo', not 'foo'");
    refuse("--mode=all -r leaks a", "-r and --mode are mutually exclusive");
    refuse("--memory=1X a", "--memory expects a size such as 256M, not '1X'");
    refuse("--timeout=-1 a", "--timeout expects a number from 0 to 86400, not '-1'");
    refuse("--timeout=86401 a", "--timeout expects a number from 0 to 86400, not '86401'");
    refuse("--undo-max-bytes=0 a", "--undo-max-bytes expects a size such as 4G, not '0'");
    refuse("--undo-max-count=0 a", "--undo-max-count and --undo-max-total expect a number from 1 to 10000, not '0'");
    refuse("--undo-max-age=x a", "--undo-max-age expects a number from 0 to 36500, not 'x'");
    refuse("--accel=tcg a", "--accel expects 'kvm', 'process' or 'auto', not 'tcg'");
    refuse("--report=x --report-fd=3 a", "--report and --report-fd are mutually exclusive");
}

static void filenames(void **state)
{
    struct options opt;

    (void)state;
    expect("file:a.qcow2", &opt, NULL);
    assert_string_equal(opt.path, "a.qcow2");
    assert_string_equal(opt.filename, "file:a.qcow2");
    options_clear(&opt);
    expect("./a:b", &opt, NULL);
    assert_string_equal(opt.path, "./a:b");
    options_clear(&opt);
    refuse("nbd:localhost:1",
           "Could not open 'nbd:localhost:1': Unknown protocol 'nbd'; only files and block devices of this host can be "
           "checked (a file of this name: ./nbd:localhost:1)");
}

static void image_opts(void **state)
{
    struct options opt;

    (void)state;
    expect("--image-opts driver=qcow2,file.driver=file,file.filename=a,,b=c,cache.direct=on", &opt, NULL);
    assert_string_equal(opt.path, "a,b=c");
    assert_string_equal(opt.format, "qcow2");
    assert_string_equal(options_shown_name(&opt), "driver=qcow2,file.driver=file,file.filename=a,,b=c,cache.direct=on");
    options_clear(&opt);
    expect("--image-opts driver=qcow2,driver=raw,file.filename=a,force-share=on", &opt, NULL);
    assert_string_equal(opt.format, "raw");
    assert_true(opt.force_share);
    options_clear(&opt);
    refuse("--image-opts a", "Could not open 'a': Cannot find device='a' nor node-name='a'");
    refuse("--image-opts driver=qcow2",
           "Could not open 'driver=qcow2': A block device must be specified for \"file\"");
    expect("--image-opts driver=qcow2,file.filename=a,file.locking=auto,data-file.driver=file,data-file.filename=b,"
           "overlap-check=all,encrypt.key-secret=s,read-only=on", &opt, NULL);
    assert_true(opt.read_only);
    options_clear(&opt);
    refuse("-r all --image-opts file.filename=a,read-only=on",
           "Could not open 'file.filename=a,read-only=on': Block node is read-only");
    refuse("--image-opts file.filename=a,read-only=x",
           "Could not open 'file.filename=a,read-only=x': Parameter 'read-only' expects 'on' or 'off'");
    refuse("--image-opts filename=a", "Could not open 'filename=a': Must specify either driver or file");
    expect("--object secret,id=s,data=x a", &opt, NULL);
    options_clear(&opt);
    refuse("--object bogus,id=s a", "Parameter 'qom-type' does not accept value 'bogus'");
    refuse("--object secret,data=x a", "Parameter 'id' is missing");
    refuse("--image-opts driver=qcow2,foo=1,filename=a",
           "Could not open 'driver=qcow2,foo=1,filename=a': Block format 'qcow2' does not support the option 'foo'");
    refuse("--image-opts file.driver=nbd,file.filename=a",
           "Could not open 'file.driver=nbd,file.filename=a': Only files and block devices of this host are supported, "
           "not driver 'nbd'");
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t bytes;
    } cases[] = {
        {"0", true, 0},
        {"512", true, 512},
        {"512b", true, 512},
        {"1k", true, 1024},
        {"256M", true, UINT64_C(256) << 20},
        {"3g", true, UINT64_C(3) << 30},
        {"1024T", true, UINT64_C(1) << 50},
        {"1025T", false, 0},
        {"", false, 0},
        {"M", false, 0},
        {"-1", false, 0},
        {" 1", false, 0},
        {"1MB", false, 0},
        {"1.5G", false, 0},
        {"99999999999999999999", false, 0},
        {"18446744073709551615T", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t bytes = 0;

        if (size_parse(cases[i].text, &bytes) != cases[i].ok || (cases[i].ok && bytes != cases[i].bytes))
            fail_msg("size '%s'", cases[i].text);
    }
}

static void formats(void **state)
{
    (void)state;
    assert_int_equal(format_lookup("qcow2"), FORMAT_QCOW2);
    assert_int_equal(format_lookup("raw"), FORMAT_NO_CHECKS);
    assert_int_equal(format_lookup("qcow"), FORMAT_NO_CHECKS);
    assert_int_equal(format_lookup("foo"), FORMAT_UNKNOWN);
    assert_int_equal(format_lookup(""), FORMAT_UNKNOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),    cmocka_unit_test(subcommand), cmocka_unit_test(repair_last_wins),
        cmocka_unit_test(every_option), cmocka_unit_test(qemu_errors), cmocka_unit_test(own_errors),
        cmocka_unit_test(filenames),   cmocka_unit_test(image_opts), cmocka_unit_test(sizes),
        cmocka_unit_test(formats),
    };

    return cmocka_run_group_tests_name("front-options", tests, NULL, NULL);
}
