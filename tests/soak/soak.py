#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""soak.py: random images with random damage, for as long as asked; checks the rules that bind every repair. `./run soak`."""
import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / 'testdata')]
sys.dont_write_bytecode = True

import case_oracle as oracle  # noqa: E402
from case_steps import EXIT_CODES, SANITIZER, Tool, same  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from qcow2_image import RecipeError  # noqa: E402
from qcow2_read import METADATA, first_difference, guest_view  # noqa: E402


# ---- random recipes -----------------------------------------------------------------------------------------


FEATURES = ('plain', 'plain', 'plain', 'snapshot', 'snapshot', 'compressed', 'compressed snapshot', 'extended',
            'extended snapshot', 'data-file', 'bitmap', 'bitmap snapshot', 'compressed bitmap snapshot')


def build_lines(dice, cs, size, features):
    """Statements that fill a sound image."""
    verbs = ['write', 'write', 'write'] + ['compress'] * 2 * ('compressed' in features)
    verbs += ['zero'] * ('extended' not in features)
    if 'data-file' in features:
        yield 'data-file'
    for _ in range(dice.randrange(1, 8)):
        start = dice.randrange(size // cs) * cs
        length = min(dice.randrange(1, 12) * cs, size - start)
        verb = dice.choice(verbs)
        yield f'{verb} {start} {length} ' + (f'pattern={dice.randrange(1, 256)}' if verb != 'zero'
                                             else dice.choice(('keep=yes', 'keep=no')))
    if dice.random() < 0.4:
        yield f'leak {dice.randrange(1, 6)}'
    if 'bitmap' in features:
        yield from (f'bitmap name=b{i} in_use={dice.choice(("yes", "no"))} parts={dice.randrange(3)}'
                    for i in range(dice.randrange(1, 3)))
    if 'snapshot' in features:
        yield from (f'snapshot id={i} name=s{i} extra={dice.choice((0, 16, 24, 24, 40))} copies={dice.choice((1, 1, 3))}'
                    for i in range(dice.randrange(1, 4)))


def feature_targets(dice, image, somewhere, l2):
    """Places to damage in what not every image has."""
    flip = 1 << dice.randrange(64)
    if image.snapshots:
        at = f'snapshot[{dice.randrange(len(image.snapshots))}]'
        yield from (f'{at}.l1_offset = {somewhere}', f'{at}.l1_offset ^= {flip}', f'{at}.l1_size ^= {flip & 0xffffffff}',
                    f'{at}.extra_size ^= {flip & 0xffff}', f'{at}.name_len ^= {flip & 0xffff}',
                    f'header.nb_snapshots ^= {1 << dice.randrange(4)}', f'header.snapshots_offset = {somewhere}')
    if image.bitmaps:
        at = f'bitmap[{dice.randrange(len(image.bitmaps))}]'
        yield from (f'{at}.table_offset = {somewhere}', f'{at}.table[0] = {somewhere}', f'{at}.table[0] ^= {flip}',
                    f'{at}.flags ^= 1', f'{at}.granularity ^= {flip & 0xff}', 'header.autoclear ^= 1')
    if image.l2 and image.l2_entry_size == 16:
        yield from (f'{l2}.bitmap ^= {flip}', f'{l2}.bitmap = 0')
    if image.l2 and image.compress_at is not None:
        yield from (f'{l2} ^= {1 << 62}', f'{l2} ^= {flip}', f'{l2} = {somewhere | 1 << 62}')


def poke_line(dice, image, bits):
    """One statement that damages something. Targets are real structures; values are likely or absurd."""
    clusters = image.store.size // image.cs
    l1 = dice.choice(sorted(image.l2) or [0])
    l2 = f'l1[{l1}].l2[{dice.randrange(min(16, image.l2_entries))}]'
    somewhere = dice.choice((dice.randrange(clusters) * image.cs, dice.randrange(clusters) * image.cs, image.store.size,
                             image.store.size + 8 * image.cs, dice.randrange(1 << 40) & ~511, 0))
    targets = [f'refcount[{dice.randrange(clusters)}] = {dice.choice((0, 0, 1, 2, (1 << min(bits, 62)) - 1)) & ((1 << bits) - 1)}'] * 4
    targets += [f'l1[{l1}].copied ^= 1', f'l1[{l1}] ^= {1 << dice.randrange(64)}', f'l1[{l1}].offset = {somewhere}']
    if image.l2:
        targets += [f'{l2}.copied ^= 1', f'{l2}.copied ^= 1', f'{l2} ^= {1 << dice.randrange(64)}', f'{l2}.offset = {somewhere}',
                    f'{l2}.zero ^= 1']
    targets += [f'reftable[{dice.randrange(2)}] ^= {1 << dice.randrange(64)}', f'reftable[0].offset = {somewhere}']
    if image.version == 3:
        targets += [f'header.incompatible ^= {dice.choice((1, 1, 2, 2, 4, 8, 16, 1 << 40))}']
    targets += feature_targets(dice, image, somewhere, l2)
    targets += [f'u64[{8 * dice.randrange(14)}] ^= {1 << dice.randrange(64)}']
    return 'poke ' + dice.choice(targets)


def random_recipe(dice):
    """(text, Recipe): pokes that cannot be carried out are left out."""
    features = dice.choice(FEATURES)
    version, cluster_bits = dice.choice((2, 3, 3, 3)), dice.choice((9, 9, 10, 12, 12, 14, 16, 16, 18, 21))
    if features != 'plain':
        version, cluster_bits = 3, max(cluster_bits, 14 if 'extended' in features else 9)
    bits = 16 if version == 2 else dice.choice((1, 2, 4, 8, 16, 16, 16, 32, 64))
    cs = 1 << cluster_bits
    size = cs * dice.choice((1, 7, 64, 200, 1000)) + dice.choice((0, 0, 512))
    if 'snapshot' in features or 'compressed' in features:
        bits = max(bits, 16)  # the writer cannot build what the width cannot count
    lines = [f'image version={version} cluster_bits={cluster_bits} refcount_bits={bits} size={size} reftable_clusters=2'
             + ' extended_l2=on' * ('extended' in features)]
    lines += build_lines(dice, cs, size - size % cs, features)
    recipe = Recipe('\n'.join(lines))
    for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 6, 20))):
        line = poke_line(dice, recipe.image, bits)
        try:
            recipe.statement(line)
            lines.append(line)
        except (RecipeError, ValueError, KeyError, IndexError, OverflowError):
            continue
    if dice.random() < 0.1:
        lines.append(f'truncate {max(cs, recipe.image.store.size - dice.randrange(4 * cs))}')
        recipe.statement(lines[-1])
    return '\n'.join(lines) + '\n', recipe


# ---- the rules ------------------------------------------------------------------------------------------------


class Broken(Exception):
    """A rule does not hold."""


def hold(true, rule):
    if not true:
        raise Broken(rule)


def well(run, what):
    hold(run['exit'] in EXIT_CODES, f'{what}: ended with {run["exit"]}: {run["stderr"][-300:]}')
    hold(not any(word in run['stderr'] for word in SANITIZER), f'{what}: {run["stderr"][:300]}')
    hold(run['report'].get('exit-code') == run['exit'], f'{what}: exit {run["exit"]}, report {run["report"].get("exit-code")}')
    looked = run['exit'] == 63 or run['report'].get('check-errors')  # exit 1 as qemu-img's, not a failure of the program
    hold(run['report'].get('verdict') != 'failed' or looked, f'{what}: failed: {run["report"].get("error")}')
    return run


def corruptions(document):
    return (document or {}).get('corruptions', 0) + (document or {}).get('check-errors', 0)


def check_rules(tool, work, recipe):
    """One image through check, leaks and all. Returns the exit codes, for statistics."""
    start = work / 'start'
    start.mkdir()
    image, pristine = start / oracle.IMAGE, work / 'pristine'
    recipe.save(str(image))
    oracle.copy_sparse(image, pristine)
    metadata = recipe.image.structure_clusters()
    found = well(tool.check(str(start)), 'check')
    hold(same(image, pristine), 'check wrote to the image')
    return [found['exit']] + [check_repair(tool, work, mode, found, metadata) for mode in ('leaks', 'all')]


def check_repair(tool, work, mode, found, metadata):
    directory = work / mode
    image, pristine = Path(oracle.copy_image(str(work / 'start'), str(directory))), work / 'pristine'
    run = well(tool.repair(str(directory), mode, str(directory / 'undo')), mode)
    changed = not same(image, pristine)
    hold(changed == bool(run['report'].get('image-changed')), f'{mode}: image changed: {changed}, the report says otherwise')
    hold(not (run['exit'] in (1, 63) and changed), f'{mode}: exit {run["exit"]}, and the image was changed')
    if not changed:
        return run['exit']
    again = well(tool.check(str(directory)), f'{mode}, recheck')
    hold(again['exit'] == run['exit'], f'{mode}: recheck says {again["exit"]}, the repair said {run["exit"]}')
    worst = corruptions(found['json'])
    hold(found['json'] is None or corruptions(again['json']) <= worst or corruptions(again['json']) <= after_qemu(work, mode),
         f'{mode}: more corruptions than before, and than qemu-img leaves')
    oracle.copy_sparse(image, work / 'once')
    second = well(tool.repair(str(directory), mode, str(directory / 'undo2')), f'{mode}, second')
    hold(same(image, work / 'once'), f'{mode}: the second repair wrote')
    hold(second['exit'] == run['exit'], f'{mode}: second repair says {second["exit"]}, the first {run["exit"]}')
    check_with_qemu(work, mode, run, metadata)
    undone = tool.undo(str(directory), str(directory / 'undo'))
    hold(undone['exit'] == 0, f'{mode}: undo: {undone["stderr"][-200:]}')
    hold(same(image, pristine), f'{mode}: after undo the image is not what it was')
    return run['exit']


def after_qemu(work, mode):
    """
    What qemu-img counts after its own repair. A leak that is mended can make a COPIED flag wrong that was right before,
    and mode leaks mends flags only where nothing else is wrong: no harm, but one corruption more to count.
    """
    directory = tempfile.mkdtemp(dir=work)
    oracle.copy_image(str(work / 'start'), directory + '/copy')
    oracle.check(directory + '/copy', mode)
    return corruptions(oracle.check(directory + '/copy')['json'])


def check_with_qemu(work, mode, run, metadata):
    """qemu-img finds nothing worse than before, nothing where we say clean; the guest reads what it read."""
    before, after = oracle.check(str(work / 'start')), oracle.check(str(work / mode))
    hold(before['json'] is None or corruptions(after['json']) <= corruptions(before['json'])
         or corruptions(after['json']) <= after_qemu(work, mode) or kept_on_purpose(run),  # it follows what we do not
         f'{mode}: qemu-img counts {corruptions(after["json"])} corruptions, before {corruptions(before["json"])}')
    hold(run['exit'] != 0 or after['exit'] == 0 or before['json'] is None, f'{mode}: clean by us, exit {after["exit"]} by qemu-img: {after["lines"][:3]}')
    old, new = (guest_view(str(work / name / oracle.IMAGE), metadata) for name in ('start', mode))
    different = first_difference(old, new, readable_only=True)
    hold(not different or METADATA in old.values(), f'{mode}: guest data changed: {different}')
    hold(mode != 'all' or run['exit'] == 0 or kept_on_purpose(run) or not qemu_cleans(work),
         f'{mode}: qemu-img makes it clean, we end with {run["exit"]}')


# Rows of damage that qemu-img cleans by freeing, overwriting or inventing what may be somebody's data: docs/differences.md.
ON_PURPOSE = ('snapshot-implausible', 'snapshots-uncounted', 'snapshot-table-', 'snapshot-l1-', 'bitmap-past-eof',
              'rebuild-', 'doubtful', 'incomplete')


def kept_on_purpose(run):
    words = [p['id'] for p in run['report'].get('problems', [])]
    words += [p.get('refused-because', '') for p in run['report'].get('problems', [])]
    return any(w.startswith(ON_PURPOSE) or w.endswith('-foreign') for w in words)


def qemu_cleans(work):
    directory = tempfile.mkdtemp(dir=work)
    oracle.copy_image(str(work / 'start'), directory + '/copy')
    return oracle.check(directory + '/copy', 'all')['exit'] == 0 and oracle.check(directory + '/copy')['exit'] == 0


# ---- the loop ----------------------------------------------------------------------------------------------------


def one_round(tool, seed, statistics):
    """Returns a text where a rule was broken, else None."""
    text, recipe = random_recipe(random.Random(seed))
    work = Path(tempfile.mkdtemp(prefix='vol-repair-soak-'))
    try:
        for code in check_rules(tool, work, recipe):
            statistics[code] = statistics.get(code, 0) + 1
        return None
    except Broken as broken:
        return f'FAIL seed {seed}: {broken}\n' + ''.join(f'    {line}\n' for line in text.splitlines())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog='./run soak', description=__doc__)
    parser.add_argument('minutes', nargs='?', type=float, default=10)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--seed', type=int, help='the first seed (default: the time); a failure names its seed')
    parser.add_argument('--accel', choices=('kvm', 'process'), help='default: kvm where /dev/kvm can be used')
    parser.add_argument('--rounds', type=int, default=1 << 60, help='at most so many images')
    args = parser.parse_args()
    args.accel = args.accel or ('kvm' if os.access('/dev/kvm', os.R_OK | os.W_OK) else 'process')
    tool = Tool(str(Path(args.build) / 'plugin/cli/vol-repair'), args.accel)
    seed = int(time.time()) if args.seed is None else args.seed
    end, rounds, failed, statistics = time.monotonic() + args.minutes * 60, 0, 0, {}
    print(f'soak: accel {args.accel}, first seed {seed}', flush=True)
    while time.monotonic() < end and rounds < args.rounds and failed < 20:
        broken = one_round(tool, seed + rounds, statistics)
        if broken:
            failed += 1
            print(broken, flush=True)
        rounds += 1
    print('exit codes: ' + ', '.join(f'{code}: {statistics[code]}' for code in sorted(statistics, key=str)))
    kvm = f' ({rounds} ran under KVM)' if args.accel == 'kvm' else ''
    print(f'{rounds - failed} passed, {failed} failed, 0 skipped{kvm}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
