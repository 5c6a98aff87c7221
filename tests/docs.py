#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs.py: documents are tested too: generated pages are up to date, links lead somewhere, man pages know every option."""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)')
OPTION = re.compile(r'(?<![\w-])--[a-z][a-z-]+')


def check_made_pages(_):
    wrong = []
    for maker in ('gen-problems.py', 'gen-differences.py'):
        done = subprocess.run([sys.executable, str(ROOT / 'docs' / maker), '--check'], stderr=subprocess.PIPE, text=True,
                              check=False)
        wrong += [done.stderr.strip()] if done.returncode else []
    return wrong


def check_links(_):
    wrong = []
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('test*/**/*.md')]:
        for target in LINK.findall(page.read_text()):
            if '://' not in target and not (page.parent / target).exists():
                wrong.append(f'{page.relative_to(ROOT)}: link to {target}, which is not there')
    return wrong


def check_map(_):
    """Each path that README's map names exists, and each folder with sources is on the map."""
    text = (ROOT / 'README.md').read_text().split('## Where things are')[1].split('\n## ')[0]
    named = {word for line in text.splitlines() if line.startswith('| `')
             for word in re.findall(r'`([\w./-]+)`', line.split('|')[1])}
    wrong = [f'README: {path} is not there' for path in sorted(named) if not (ROOT / path).exists()]
    for folder in sorted({p.parent for p in ROOT.glob('*/**/*.[chS]') if p.relative_to(ROOT).parts[0] != 'build'}):
        inside = str(folder.relative_to(ROOT)) + '/'
        if not any(inside.startswith(path) or path.startswith(inside) for path in named):
            wrong.append(f'README: the map does not show {inside}')
    return wrong


def options_of(program):
    text = subprocess.run([str(program), '--help'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    return set(OPTION.findall(text))


def check_man(build):
    """What --help lists is on the man page, and the reverse."""
    wrong = []
    for program, page in ((build / 'plugin/cli/vol-repair', 'vol-repair.1'), (build / 'virsh-ext/virt-vol-repair', 'virt-vol-repair.1')):
        path = ROOT / 'docs' / 'man' / page
        if not path.exists():
            wrong.append(f'docs/man/{page} is not there')
            continue
        written = set(OPTION.findall(path.read_text().replace('\\-', '-').replace('\\fR', '')))
        known = options_of(program)
        wrong += [f'{page}: {o} is in --help only' for o in sorted(known - written)]
        wrong += [f'{page}: --help does not know {o}' for o in sorted(written - known - {'--help', '--version'})]
    return wrong


def check_schema(_):
    import jsonschema
    schema = json.loads((ROOT / 'docs' / 'report.schema.json').read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    page = (ROOT / 'docs' / 'report.md').read_text()
    return [f'docs/report.md does not name the key {key}' for key in schema.get('properties', {}) if f'`{key}`' not in page]


def check_run(_):
    """Each command that ./run lists has its function, and the reverse."""
    text = (ROOT / 'run').read_text()
    listed = set(re.findall(r'^(\w+) +\|', text, re.M))
    written = set(re.findall(r'^cmd_(\w+)\(\)', text, re.M))
    return [f'./run: {name} is listed or written, but not both' for name in sorted(listed ^ written)]


CHECKS = [check_made_pages, check_links, check_map, check_man, check_schema, check_run]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    args = parser.parse_args()
    failed = 0
    for check in CHECKS:
        try:
            wrong = check((ROOT / args.build).resolve())
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            wrong = [str(error)]
        for what in wrong:
            print(f'FAIL {check.__name__}: {what}')
        failed += bool(wrong)
    print(f'{len(CHECKS) - failed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
