#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: every fuzz target from a corpus of good inputs: a fixed number of runs with a fixed seed, or for some time.

run.py --build BUILD [--tools BUILD] [--seconds N] [--keep DIR] [TARGET...]. BUILD was configured with -Dfuzz=true. An input that breaks
something is left in --keep (default: build/fuzz-findings); it becomes a test.
"""
import argparse
import concurrent.futures
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'tests' / 'soak'), str(ROOT / 'testdata'), str(ROOT / 'tests')]
sys.dont_write_bytecode = True

from mkqcow2 import Recipe  # noqa: E402
import soak  # noqa: E402

IMAGE_MAX = 256 << 10  # larger images say little more, and cost much
RUNS = {'engine': 12000, 'ring': 100000, 'journal': 20000, 'options': 60000, 'xml': 60000, 'client': 60000}
LENGTH = {'engine': IMAGE_MAX, 'ring': 33 * 200, 'journal': 64 << 10, 'options': 2048, 'xml': 8192, 'client': 16384}


# ---- corpora --------------------------------------------------------------------------------------------------


def small_images():
    """Recipes of tests/cases whose images are small, and random ones, in clusters of 512 bytes mostly."""
    for recipe in sorted((ROOT / 'tests' / 'cases').glob('*/recipe')):
        text = recipe.read_text()
        if re.search(r'cluster_bits=(9|10|11|12|13|14)\b', text):
            yield Recipe(text)
    for seed in range(200):
        yield soak.random_recipe(random.Random(seed))[1]


def engine_corpus(directory):
    number = 0
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, 'image')
        for recipe in small_images():
            recipe.save(str(image))
            if image.stat().st_size <= IMAGE_MAX:
                number += 1
                (directory / f'{number:04}').write_bytes(bytes([number % 256]) + image.read_bytes())


def ring_corpus(directory):
    """A good guest: reads, writes, a new size, a commit, the end; each with its doorbell."""
    def action(what, op, offset=0, length=512, value=0, number=1):
        return bytes([what]) + op.to_bytes(2, 'little') + bytes(2) + number.to_bytes(4, 'little') + offset.to_bytes(8, 'little') \
            + (0x800000).to_bytes(8, 'little') + length.to_bytes(4, 'little') + value.to_bytes(4, 'little')
    bell = action(3, 1)
    for mode in range(3):
        for ops in ((1,), (1, 1, 2), (2, 3, 4), (6, 7, 8), (2, 4, 1, 8), (9,), (1,) * 20):
            actions = b''.join(action(0, op, 512 * i, 512 if op != 6 else 96, i % 3) for i, op in enumerate(ops))
            (directory / f'{mode}-{"".join(map(str, ops))[:20]}').write_bytes(bytes([mode]) + actions + bell)


def journal_corpus(directory, build):
    """Journals of real repairs, cut short by their images' sizes."""
    number = 0
    with tempfile.TemporaryDirectory() as scratch:
        image, journal = Path(scratch, 'image'), Path(scratch, 'journal')
        for recipe in small_images():
            recipe.save(str(image))
            before = image.read_bytes()
            if len(before) > 120 * 512:
                continue
            journal.unlink(missing_ok=True)
            subprocess.run([build / 'plugin/cli/vol-repair', '--accel=process', '-q', '-f', 'qcow2', '-r', 'all',
                            f'--undo={journal}', image], capture_output=True, check=False)
            if not journal.exists():
                continue
            for content in (before, image.read_bytes()):
                size = len(content) // 512
                number += 1
                (directory / f'{number:04}').write_bytes(bytes([size]) + content[:512 * size] + journal.read_bytes())
            if number > 60:
                break


OPTIONS = ['check\0-f\0qcow2\0-r\0all\0a.qcow2', '--output=json\0-q\0-U\0a', '--image-opts\0driver=qcow2,file.filename=a,,b',
           '--mode=leaks\0--undo=/u\0--report=/r\0--memory=256M\0--timeout=30\0--max-messages=7\0a', '--stream\0--image-fd=3\0--\0a',
           '--object\0secret,id=s,data=x,format=raw\0a', '256M', '-T\0writeback\0a', '--user=nobody:daemon\0a',
           'json:{"driver":"qcow2"}', '--image-opts\0driver=qcow2,file.driver=file,file.filename=/a,force-share=on']
XML = ['\0<vol-repair request="capabilities"/>', '\0<vol-repair request="jobs"/>', '\0<vol-repair request="abort" job="3"/>',
       '\0<vol-repair request="options"><format>qcow2</format><memory unit="MiB">64</memory><timeout>7</timeout></vol-repair>',
       '\1<pool type="dir"><name>p</name><target><path>/p</path></target></pool>\1<volume><name>v</name><target><path>/p/v</path>'
       '<format type="qcow2"/><permissions><mode>0600</mode><owner>1</owner><group>1</group></permissions></target></volume>',
       '\2{"type":"progress","phase":"check","percent":7}', '\2{"verdict":"clean","exit-code":0,"image-changed":false}']
CLIENT = ["\0<vol-repair version='1'><modes><mode name='check'/></modes><pools><type name='dir'/></pools><formats><format name='qcow2'/>"
          "</formats><doors><door name='stream'/></doors><helper path='/h' usable='yes'/></vol-repair>",
          "\1<vol-repair-jobs><job id='1' mode='all' pool='p' volume='v' state='done' percent='100' verdict='clean' exit-code='0' "
          "started='1'/></vol-repair-jobs>", "\2<vol-repair-options token='77'/>", "\3<vol-repair-abort job='7' result='sent'/>",
          '\4{"type":"start","version":1}\n{"type":"progress","phase":"check","percent":7}\n', '\x17{"type":"report"}\n']


def text_corpus(texts):
    def make(directory, build=None):
        for number, text in enumerate(texts):
            (directory / f'{number:04}').write_text(text)
    return make


CORPORA = {'engine': lambda d, b: engine_corpus(d), 'ring': lambda d, b: ring_corpus(d), 'journal': journal_corpus,
           'options': text_corpus(OPTIONS), 'xml': text_corpus(XML), 'client': text_corpus(CLIENT)}


# ---- one target -------------------------------------------------------------------------------------------------


def fuzz(target, args):
    """(lines to print, whether nothing was found)"""
    args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='vol-repair-fuzz-') as scratch:
        corpus = Path(scratch, 'corpus')
        corpus.mkdir()
        CORPORA[target](corpus, args.tools)
        limit = [f'-max_total_time={args.seconds}'] if args.seconds else [f'-runs={RUNS[target]}']
        command = [args.build / 'tests' / 'fuzz' / f'fuzz_{target}', *limit, f'-seed={args.seed}', f'-max_len={LENGTH[target]}',
                   '-timeout=25', '-rss_limit_mb=2048', '-print_final_stats=1', f'-artifact_prefix={args.keep}/{target}-', corpus]
        env = {**os.environ, 'ASAN_OPTIONS': 'detect_leaks=1:allocator_may_return_null=1', 'UBSAN_OPTIONS': 'halt_on_error=1'}
        done = subprocess.run(command, capture_output=True, text=True, errors='replace', check=False, env=env)
    executed = re.search(r'number_of_executed_units:\s*(\d+)', done.stderr)
    covered = re.findall(r'cov: (\d+)', done.stderr)
    if done.returncode == 0 and executed:
        return [f'passed  {target}: {executed.group(1)} executions, {covered[-1] if covered else 0} edges'], True
    what = re.findall(r'(?:rule broken: .*|ERROR: .*|runtime error: .*|SUMMARY: .*)', done.stderr)
    return [f'FAIL {target}: {"; ".join(what[:3]) or done.stderr[-300:]} (input: {args.keep}/{target}-*)'], False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True, type=Path)
    parser.add_argument('--tools', type=Path, help='build directory of vol-repair, for the corpora (default: BUILD)')
    parser.add_argument('--seconds', type=int, default=0, help='for so long, instead of a fixed number of runs')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--keep', type=Path, default=ROOT / 'build' / 'fuzz-findings')
    parser.add_argument('targets', nargs='*')
    args = parser.parse_args()
    args.tools = (args.tools or args.build).resolve()
    args.build, args.keep = args.build.resolve(), args.keep.resolve()
    targets = args.targets or list(RUNS)
    if not (args.build / 'tests' / 'fuzz' / 'fuzz_engine').exists():
        print(f'SKIP fuzz: {args.build} has no fuzz targets (clang with libFuzzer is needed)')
        print(f'0 passed, 0 failed, {len(targets)} skipped')
        return 0
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines, ok in pool.map(lambda target: fuzz(target, args), targets):
            print('\n'.join(lines), flush=True)
            passed += ok
    print(f'{passed} passed, {len(targets) - passed} failed, 0 skipped')
    return passed != len(targets)


if __name__ == '__main__':
    sys.exit(main())
