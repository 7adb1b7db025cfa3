# ruff: noqa: E501, RUF001  (strings as they are, as many to a line as fit)
"""Strings that have broken other programs: what a name, a value, a path, a row or a template's author may send us.

Each shell form runs `touch CANARY`: where a file of that name appears, somebody ran it.
"""

COMMAND = "touch CANARY"
SHELL = [
    form.format(COMMAND)
    for form in (
        "; {};", "& {} &", "| {}", "|| {}", "&& {}", "\n{}\n", "\r\n{}\r\n", "$({})", "`{}`", "$(({}))", "${{x:-$({})}}",
        "<({})", ">({})", '"; {}; "', "'; {}; '", '"$({})"', "'$({})'", '\'"$({})"\'', "'\"'\"'; {}; '", "\\'; {}; \\'",
        "a' ; {} ; 'b", 'a" ; {} ; "b', "x\n{}\n#", "#\n{}", "${{IFS}};{}", "{{{},}}", "!{}", "!!; {}", "-n; {}",
        "a;{}", "a|{}", "a&{}", "a`{}`b", "a$({})b", "$'\\n{}\\n'", "$\"; {}; \"", "*; {}", "~; {}", ">CANARY; {}",
        "<<E\n$({})\nE", "%0a{}", "\u2028{}", "\x0b{}", "\x0c{}", "\x1b{}", "\0{}", "\\\n{}", ")({})", "$[`{}`]", "eval '{}'",
        "(){{ :;}}; {}", "case x in x) {};; esac", "coproc {}", "exec {}", "sh -c '{}'", "$0 -c '{}'", "${{PATH%%:*}}$({})",
        "a=$({}) b", "\t;\t{}", ";\u00a0{}",
    )
]  # fmt: skip
REDIRECTIONS = [f"{sign}CANARY" for sign in (">", ">>", "2>", "&>", ">|", "<>", "| tee ", "; > ", "1<>", "> ./")]
OPTIONS = [
    "-rf", "--", "-", "-e", "-c", "--help", "--version", "-rf /", "-o ProxyCommand=touch CANARY", "--config=x", "-n", "-exec",
    "--output=/etc/passwd", "--log=/etc/passwd", "-I", "-m", "-mos", "--force", "--unlock", "-s/etc/passwd", "-@x", "@x", "+x",
    "--touch", "--configfile=x", "--directory=/", "-", "--=", "-=-", "--allow-run-as-root", "--checkpoint-action=exec=sh",
]  # fmt: skip
PATHS = [
    "..", ".", "/", "//", "./", "../", "../../etc/passwd", "/etc/passwd", "....//....//etc/passwd", "..\\..\\windows\\win.ini",
    "%2e%2e%2fetc%2fpasswd", "..%2f", "..%00", "~", "~root", "~/.ssh/id_rsa", "$HOME", "${HOME}", "$PWD/..", "file:///etc/passwd",
    "//evil.example/share", "\\\\evil\\share", "C:\\", "CON", "NUL", "a/../b", "a/./b", "a//b", "a/", "/a", ".hidden", "..a", "a..",
    "...", "/dev/zero", "/dev/random", "/dev/stdin", "/dev/fd/0", "/dev/tcp/127.0.0.1/1", "/proc/self/environ", "/proc/self/fd/1",
    "/proc/self/mem", "*", "**", "**/*", "?", "[a-z]", "[!a]", "{a,b}", "{1..9}", "a{b", "}{", "[", "]", "[]", "[[", "[!", "a[", "\\",
    "\\\\", "a\\", "a\\/b", "http://169.254.169.254/", "https://user:secret@host/x", "s3://x", "gs://x", "hf://datasets/x", "zip://x",
    "memory://x", "simplecache::x", "data:,x", "git+ssh://x", "ftp://x",
]  # fmt: skip
CONTROLS = [
    chr(code)
    for code in (
        *range(0x00, 0x20), *range(0x7F, 0xA0), 0xAD, 0x34F, 0x61C, 0x115F, 0x180E, *range(0x200B, 0x2010), *range(0x2028, 0x202F),
        *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFF9, 0xFFFD, 0xFFFE, 0xFFFF, 0xD800, 0xDFFF, 0xE0001, 0x1F4A9, 0x10FFFF,
    )
]  # fmt: skip
UNICODE = [
    "\u202etxt.exe", "a\u202eb", "\u2066a\u2069", "раypаl", "ѕft", "ｓｆｔ", "sft\u0301", "Å", "Å", "ﬀ", "ß", "İ", "ı", "K", "𝖘𝖋𝖙",
    "\u200bsft", "s\u200dft", "ΩΩ", "表", "ソ", "\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\x", "\x9b31m",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢", "👩‍👩‍👧‍👦", "\ufdfa", "\ud83d", "\udc00a", "‮", "test\u2028x", "１２", "٤", "½", "−1", "1\u00a0000",
]  # fmt: skip
FORMATS = [
    "%s", "%n", "%d%d%d", "%x" * 20, "%99999999d", "%(a)s", "%%", "{}", "{0}", "{a}", "{0.__class__}", "{self}", "{{}}", "{{{}}}",
    "{input}", "{output}", "{wildcards}", "{wildcards.run}", "{params.spec}", "{config}", "{0.__init__.__globals__}", "{:>999999999}",
    "{!r}", "{a[0]}", "{run}", "{rank}", "{from}", "{seed}", "{}{}", "f'{1}'", "\\g<0>", "\\1", "$1", "$&", "\\x41", "\\u0041", "\\N{DIGIT ONE}",
]  # fmt: skip
TEMPLATES = [
    "{{7*7}}", "{{ 7*'7' }}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{% raw %}", "{% endraw %}", "{%", "{{", "{#", "{% for i in range(9**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ self._TemplateReference__context }}", "{{ config }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}",
    "{{ lipsum.__globals__['os'].system('touch CANARY') }}", "{{ request['application'] }}", "{% set x = namespace() %}",
    "{{ (().__class__.__base__.__subclasses__())[104] }}", "{{ 'a'|attr('__class__') }}", "{{ joiner.__init__ }}", "{% block a %}",
    "{{ raise_exception('x') }}", "{{ messages }}", "{% do x %}", "{{ x.y.z }}", "{{ 'x' * 10**12 }}", "${{ github.token }}",
]  # fmt: skip
SQL = [
    "' OR 1=1 --", "'; DROP TABLE runs; --", "1; DELETE FROM params", "\" OR \"\"=\"", "' UNION SELECT * FROM experiments --", "admin'--",
    "') OR ('1'='1", "1' AND SLEEP(5) --", "'||(SELECT 1)||'", "%' --", "_%", "\\'; --", "NULL", "0x27", "/*", "*/", "--", "';", "\";",
    "'; ATTACH DATABASE 'CANARY' AS x; --",
]  # fmt: skip
HTML = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>",
    "\"><script>alert(1)</script>", "'><img src=x onerror=alert(1)>", "\" onmouseover=\"alert(1)", "javascript:alert(1)", "<!--", "-->",
    "<![CDATA[", "]]>", "<style>*{}</style>", "</style><script>alert(1)</script>", "<iframe src=javascript:alert(1)>", "<base href=//evil>",
    "<a href=\"javascript:alert(1)\">x</a>", "&lt;script&gt;", "&#x3C;script&#x3E;", "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<body onload=alert(1)>", "<input autofocus onfocus=alert(1)>", "<details open ontoggle=alert(1)>", "<math><mi xlink:href=x>",
    "<link rel=stylesheet href=//evil>", "<meta http-equiv=refresh content=0;url=//evil>", "<object data=x>", "<embed src=x>",
    "`;alert(1);//", "${alert(1)}", "\\u003cscript\\u003e", "</title><script>alert(1)</script>", "</textarea><script>alert(1)</script>",
    "<form action=//evil>", "<button formaction=//evil>", "[x](javascript:alert(1))", "![x](//evil/x.png)", "<x/onclick=alert(1)>", "<xmp>",
    "\x00<script>alert(1)</script>", "<ScRiPt>alert(1)</sCrIpT>", "<script/src=//evil>", "'-alert(1)-'", "\\'-alert(1)//", "</pre><script>alert(1)</script>",
]  # fmt: skip
CELLS = [f"{sign}{body}" for sign in "=+-@" for body in ("1+1", "cmd|'/c calc'!A0", "HYPERLINK(\"//evil\",\"x\")")] + [
    "\t=1+1", "\r=1+1", "\"=1+1\"", "a,b", "a\"b", "a\nb", "a;b", "\"", "\"\"\"", ",,,", "a|b", "| a | b |", "`|`", "\\|", "| --- |",
]  # fmt: skip
YAML = [
    "!!python/object/apply:os.system ['touch CANARY']", "!!python/name:os.system", "!!python/module:os", "!!binary x", "!!set {a}", "!x y",
    "!!timestamp 2024-13-45", "&a *a", "&a [*a]", "*a", "<<: *a", "? a", "- - -", "a: b", "a: b: c", "a #b", "# a", "--- a", "...", "%YAML 1.1",
    "|", ">", "|-\n a", "[", "]", "{", "}", "[[[[", "{a", "'", '"', "yes", "no", "on", "off", "true", "null", "~", "None", "1e-4", "0x10", "0o7", "010",
    "1_000", "1:30", "2024-01-01", "2024-99-99", "2001-12-14t21:59:43.10-05:00", ".inf", "-.inf", ".nan", "=", "- a", "\t", "a:\tb", "@a", "`a", "__use_yte__: true",
    "---\n__use_yte__: true\n__definitions__:\n - import os; os.system('touch CANARY')", "? os.system('touch CANARY')",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "-1", "1e999", "-1e999", "1e-999", "nan", "inf", "-inf", "Infinity", "9" * 30, "9" * 400, "9" * 5000, "0.1" + "0" * 400, "1e308", "5e-324",
    "1.", ".1", "1..1", "1e", "+1", "--1", "1-1", "0x", "0b1", "1j", "1/2", "1,5", "True", "4294967296", "18446744073709551616", "2147483648",
]  # fmt: skip
LONG = [
    "a" * 256,
    "a" * 4097,
    "a" * 100_000,
    "a," * 2000,
    "../" * 2000,
    "{" * 3000,
    "[" * 3000,
    "(" * 3000,
    "\\" * 3000,
    "😀" * 1000,
    "\n" * 3000,
    "a=" * 2000,
]

FAMILIES = {
    "shell": SHELL + REDIRECTIONS, "options": OPTIONS, "paths": PATHS, "controls": CONTROLS, "unicode": UNICODE, "formats": FORMATS,
    "templates": TEMPLATES, "sql": SQL, "html": HTML, "cells": CELLS, "yaml": YAML, "numbers": NUMBERS, "long": LONG,
}  # fmt: skip
STRINGS = list(dict.fromkeys(text for family in FAMILIES.values() for text in family))


def as_file_name(text: str) -> str | None:
    """The same as the name of a file, None where it can be none."""
    name = text.replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
    return None if name in ("", ".", "..") else name
