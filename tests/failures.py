"""What failed in a run of "meson test", for tests/run.

Usage: failures.py show|names MESON-LOG.json
  show    the last lines of what each failed test printed
  names   PROJECT:TEST of each, one a line; nothing when one of them must not be tried again: a sanitizer's report or a
          crash is a defect however rare it is, and so many failures are not the machine's load
"""
import json
import re
import sys

LINES = 45
MOST = 3
# The program's own assertions and glibc's; those of a unit test are another matter.
REPORTS = re.compile(r'(Address|Thread|Leak|UndefinedBehavior)Sanitizer|runtime error:|: assertion failed at |Assertion `|core dumped'
                     r'|Received signal \d+|it ended by signal \d+')


def failed(path):
    """The tests of the log that neither passed nor were skipped."""
    with open(path, encoding='utf-8') as log:
        tests = [json.loads(line) for line in log]
    return [test for test in tests if test['result'] in ('FAIL', 'ERROR', 'TIMEOUT', 'INTERRUPT', 'UNEXPECTEDPASS')]


def output(test):
    """What it printed; on its standard error the cause stands last."""
    return (test.get('stdout') or '') + (test.get('stderr') or '')


def may_try_again(tests):
    """Whether a second run, alone, may tell a starved test from a broken one."""
    return len(tests) <= MOST and all(
        test['returncode'] >= 0 and not REPORTS.search(output(test)) and 'instructions' not in test['name'] for test in tests)


def main():
    """One of the two commands above."""
    what, path = sys.argv[1:]
    tests = failed(path)
    if what == 'show':
        for test in tests:
            print(f'{test["name"]}: {test["result"]} after {test["duration"]:.1f} s, exit code {test["returncode"]}')
            print(*output(test).splitlines()[-LINES:], sep='\n')
    elif may_try_again(tests):
        for test in tests:
            suite, name = test['name'].split(' / ', 1)
            print(f'{suite.split(":")[0]}:{name}')


if __name__ == '__main__':
    main()
