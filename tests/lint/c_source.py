"""What the lint tests of C share: which files there are, and their text without comments and literals."""
import pathlib
import re

FOLDERS = ('src', 'include', 'subprojects', 'tests')
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def files(root, pattern='*.[ch]'):
    root = pathlib.Path(root)
    return sorted(p for folder in FOLDERS for p in (root / folder).rglob(pattern))


def strip(text):
    """Comments and the insides of literals are gone, the lines stay where they are."""
    def blank(match):
        quote = match[0][0] if match[0][0] in '"\'' else ''
        return quote + ' ' + '\n' * match[0].count('\n') + quote
    return TOKEN.sub(blank, text)
