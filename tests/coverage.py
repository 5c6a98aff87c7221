#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""coverage.py: which lines of guest/ the tests reach, by llvm-cov; writes docs/coverage.md. Called by `./run coverage`.

The engine is built natively, once with each of its unit tests and once with the fuzz target, and runs over the image of
every recipe of tests/cases, in every mode. guest/boot/ (the entry point, the ring) exists only inside the VM, and cannot be
measured so; every test under KVM runs it.
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'testdata')]
sys.dont_write_bytecode = True

from mkqcow2 import Recipe  # noqa: E402

CLANG = ['clang', '-std=gnu11', '-O1', '-g', '-fprofile-instr-generate', '-fcoverage-mapping', '-Itests/unit/engine', '-Itests/fuzz',
         *(f'-Iguest/{d}' for d in ('abi', 'common', 'core', 'owners', 'boot')), *(
             f'-Iguest/formats/qcow2/{d}' for d in ('disk', 'image', 'plan', 'map', 'lost', 'passes')), '-DIMAGE_MAX=(96u<<20)']
UNITS = ('format', 'refmap', 'io', 'session')
CHECK, LEAKS, ALL = range(3)
DEVICE, FORCE_LEAKS, WOULD, WIDE = 1, 2, 4, 8  # VR_BOOT_*
RUNS = [(CHECK, 0, 0), (CHECK, WOULD, 0), (LEAKS, 0, 0), (ALL, 0, 0), (ALL, FORCE_LEAKS, 0), (ALL, DEVICE, 0), (LEAKS, WIDE, 0),
        (ALL, WIDE, 0), (ALL, 0, 2), (ALL, 0, 3), (CHECK, WOULD, 3)]


def first_byte(mode, flags, heap):
    """What makes the fuzz target run in that mode, with those flags and that much memory."""
    return next(byte for byte in range(64 * heap, 64 * heap + 64) if byte % 3 == mode and byte >> 2 & 15 == flags)


def build(work, name, sources, *more):
    engine = [str(p) for p in sorted(ROOT.glob('guest/**/*.c')) if p.parent.name != 'boot']
    subprocess.run([*CLANG, *engine, 'tests/unit/engine/memory_carrier.c', *sources, '-o', work / name, *more], cwd=ROOT, check=True)
    return work / name


def run(program, work, what, *args):
    env = {**os.environ, 'LLVM_PROFILE_FILE': str(work / '%m.profraw'), 'CMOCKA_MESSAGE_OUTPUT': 'stdout'}
    done = subprocess.run([program, *args], env=env, capture_output=True, text=True, errors='replace', check=False)
    if done.returncode != 0:
        rules = [line for line in done.stderr.splitlines() if line.startswith('rule broken')]
        sys.exit(f'coverage: {what}: ended with {done.returncode}: {rules or done.stderr[-500:]}')


def over_recipes(program, work):
    count = 0
    for recipe in sorted((ROOT / 'tests' / 'cases').glob('*/recipe')):
        image = work / 'image'
        Recipe(recipe.read_text()).save(str(image))
        content, inputs = image.read_bytes(), []
        for number, how in enumerate(RUNS):
            inputs.append(work / f'input-{number}')
            inputs[-1].write_bytes(bytes([first_byte(*how)]) + content)
        run(program, work, recipe.parent.name, *inputs)
        count += 1
    return count


def lines_of(work, programs):
    """{file: {line: times}} of guest/."""
    subprocess.run(['llvm-profdata', 'merge', '-o', work / 'all.profdata', *work.glob('*.profraw')], check=True)
    objects = [word for program in programs[1:] for word in ('-object', str(program))]
    lcov = subprocess.run(['llvm-cov', 'export', '-format=lcov', '-instr-profile', work / 'all.profdata', programs[0], *objects],
                          capture_output=True, text=True, check=True).stdout
    found, lines = {}, None
    for entry in lcov.splitlines():
        if entry.startswith('SF:'):
            path = Path(entry[3:])
            path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            lines = found.setdefault(str(path), {}) if path.parts[0] == 'guest' else None
        elif entry.startswith('DA:') and lines is not None:
            number, times = map(int, entry[3:].split(',')[:2])
            lines[number] = max(lines.get(number, 0), times)
    return found


def text(found, recipes):
    total, reached = sum(map(len, found.values())), sum(sum(map(bool, lines.values())) for lines in found.values())
    out = ['<!-- Made by ./run coverage: do not edit. -->', '# Coverage of the guest', '',
           f'{reached} of {total} lines of `guest/` ({100 * reached / total:.1f} %) are reached by the unit tests of the engine and by the images of the',
           f'{recipes} recipes in tests/cases in every mode, by llvm-cov. Fuzzers and random damage come on top of that. `guest/boot/` (the',
           'entry point, the ring) exists only inside the VM, and cannot be measured so; every test under KVM runs it.', '',
           '| file | lines | reached |', '| --- | --- | --- |']
    out += [f'| {name} | {len(lines)} | {sum(map(bool, lines.values()))} |' for name, lines in sorted(found.items())]
    out += ['', '## The lines that are not reached', '']
    for name, lines in sorted(found.items()):
        source = (ROOT / name).read_text().splitlines()
        missed = [n for n, times in sorted(lines.items()) if not times]
        shown = [f'{n:5}  {source[n - 1].strip()}' for n in missed if not re.fullmatch(r'[\s{}]*', source[n - 1])]
        if shown:
            out += [f'`{name}`', '', '```c', *shown, '```', '']
    return '\n'.join(out).rstrip() + '\n'


def main():
    with tempfile.TemporaryDirectory(prefix='vol-repair-coverage.', dir='/var/tmp') as directory:
        work = Path(directory)
        programs = [build(work, f'test_{unit}', [f'tests/unit/engine/test_{unit}.c'], '-lcmocka') for unit in UNITS]
        for program in programs:
            run(program, work, program.name)
        programs.append(build(work, 'fuzz_engine', ['tests/fuzz/fuzz_engine.c'], '-fsanitize=fuzzer'))
        recipes = over_recipes(programs[-1], work)
        page = text(lines_of(work, programs), recipes)
    (ROOT / 'docs' / 'coverage.md').write_text(page)
    print('\n'.join(page.splitlines()[3:6]))


if __name__ == '__main__':
    main()
