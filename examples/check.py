"""Score a model's answer to one question: 1 if right, 0 if wrong.

    from check import score
    score(row, answer_text)          # row: one line of questions.jsonl

Rules in words: README.md. Only the Python standard library is used. Code answers run in a child process with limits on
time, memory and files and with network calls refused; that is a guard against accidents, not a sandbox for hostile code.
"""

import ast
import json
import os
import re
import resource
import secrets
import subprocess
import sys
import tempfile
import unicodedata

TEST_SECONDS = 5
TEST_MEMORY = 1 << 30
MAX_OUTPUT = 20_000

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-+]?\.\d+")
_MARKER = re.compile(
    r"(?:final answer|answer|result|correct (?:option|choice)|label|category|intent|sentiment)\s*(?:is\b|:|=)\s*:?",
    re.IGNORECASE,
)
_NEGATION = {
    "not",
    "isnt",
    "wasnt",
    "arent",
    "werent",
    "never",
    "neither",
    "nor",
    "without",
    "except",
    "no",
    "cannot",
    "cant",
    "doesnt",
    "didnt",
}


def score(row, answer_text):
    """0 or 1. An answer that cannot be read as the asked form is wrong."""
    text = unicodedata.normalize("NFKC", str(answer_text or "")).replace("’", "'").replace("−", "-").strip()
    if not text:
        return 0
    check = row["check"]
    return int(bool(_CHECKS[check["type"]](check, text)))


# -- reading the answer ------------------------------------------------------------------------------------------------


def words(text):
    """Lower case, accents dropped, punctuation to spaces: the form in which words are compared."""
    text = unicodedata.normalize("NFKD", str(text))
    text = "".join(c for c in text if not unicodedata.combining(c)).lower().replace("'", "")
    return " ".join(re.findall(r"[a-z0-9]+", text))


def unfence(text):
    """The inside of the only code fence, if the answer is wrapped in one; else the text."""
    blocks = re.findall(r"```[\w+-]*[ \t]*\n?(.*?)```", text, re.DOTALL)
    return blocks[0].strip() if len(blocks) == 1 else text.replace("```", " ").strip()


def plain(text):
    """Without Markdown emphasis, inline code marks and LaTeX wrappers."""
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\*\*|__|`|\\[()\[\]]", "", text).replace("\\$", "$").replace("\\%", "%")


def final_part(text):
    """What follows the last 'Answer:' (or 'the answer is'), if there is one."""
    hits = list(_MARKER.finditer(text))
    return text[hits[-1].end() :].strip() if hits else None


# -- number ------------------------------------------------------------------------------------------------------------


def _numbers(text):
    text = re.sub(r"(\d)\s*[-–]\s*(?=\d)", r"\1 - ", text)  # 5-3 is not the number -3
    text = text.replace("- $", "-").replace("-$", "-").replace("$", " ").replace("€", " ").replace("£", " ")
    return [float(m.group().replace(",", "")) for m in _NUMBER.finditer(text)]


def _check_number(check, text):
    text = unfence(text)
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    if boxed and not re.search(r"answer\s*(?:is|:)", text.rsplit("\\boxed", 1)[1], re.IGNORECASE):
        text = "Answer: " + boxed[-1]
    text = plain(text)
    text = re.sub(r"\\d?frac\s*\{(\d+)\}\s*\{(\d+)\}", lambda m: str(int(m[1]) / max(1, int(m[2]))), text)
    if "####" in text:
        part = text.rsplit("####", 1)[1]
        line = part.strip().split("\n")[0]
    else:
        marked = list(re.finditer(r"(?:answer|result)\s*(?:is\b|:|=)\s*:?", text, re.IGNORECASE))
        if marked:
            line = text[marked[-1].end() :].strip().split("\n")[0]
            if len(re.findall(r"(?<![\w.])\d", line.split("=")[-1])) == 0:
                return False
        else:
            line = text.split("\n")[-1]
            ended = line.rsplit("=", 1)[-1]
            if re.search(r"[-+*/×÷=({\\]\s*$", line) or re.search(r"\d[^=]{0,12}?\s[-+*/×÷]\s*\$?\d", ended):
                return False  # broken off, or a sum without its result
    if "=" in line:
        line = line.rsplit("=", 1)[1]
    found = _numbers(line)
    if not found:
        return False
    if re.search(r"\b(?:or|between|either)\b", line) and len(set(found)) > 1:
        return False
    if re.fullmatch(r"[^\d]*\d+\s*/\s*\d+[^\d]*", line) and len(found) == 2 and found[1]:
        value = found[0] / found[1]
    else:
        # after a marker the answer comes first ("Answer: 12 apples"); in free text it comes last ("so 3 + 9 makes 12")
        value = found[0] if ("####" in text or marked) and re.match(r"\W*\d", line) else found[-1]
    gold = float(check["gold"])
    return abs(value - gold) <= check.get("tolerance", 1e-6) + 1e-9 * abs(gold)


# -- choice ------------------------------------------------------------------------------------------------------------


def _check_choice(check, text):
    text = plain(unfence(text))
    picked = _pick_letter(check, text) if isinstance(check["options"], dict) else _pick_label(check["options"], text)
    return picked is not None and picked == check["gold"]


def _pick_letter(check, text):
    options = check["options"]
    letters = "".join(options)
    part = final_part(text)
    said = part or text
    first = said.strip().split("\n")[0].strip()
    whole = words(said)
    listed = {
        m.upper() for m in re.findall(rf"^\s*[(\[]?([{letters}{letters.lower()}])(?:[).\]:]|\s*$)", said, re.MULTILINE)
    }
    if len(listed) > 1:  # the options listed again are no choice
        return None
    for letter, option in options.items():  # the option's words, with or without its letter
        if whole == words(option) or words(first) == words(f"{letter} {option}"):
            return letter
    lead = re.match(
        rf"[\s(\[\"']*(?:option|choice|letter)?\s*\(?([{letters}{letters.lower()}])(?:[\s)\].,:;\"'!]|$)(.*)",
        first + "\n" + said[len(first) :],
        re.DOTALL | re.IGNORECASE,
    )
    if lead and (lead[1].isupper() or lead[1].lower() not in "ai" or not lead[2].strip()):
        chosen = lead[1].upper()
        rest = lead[2]
        article = re.match(r"[\s(\[\"']*[AI]\s+\w", first) and words(rest.split("\n")[0]) != words(options[chosen])
        if article:  # "A dog would ..." is a sentence, not the letter A
            return None
        others = {
            m.upper() for m in re.findall(rf"(?:\(([{letters}])\)|\b([{letters}])[).](?=\s|$))", rest) for m in m if m
        }
        joined = re.match(rf"\s*(?:or|and|/|,)\s*\(?([{letters}])\b", rest, re.IGNORECASE)
        if joined or (others - {chosen} and not part):
            return None
        named = [k for k, v in options.items() if words(v) and words(rest.split("\n")[0]) == words(v)]
        if named and named[0] != chosen:  # letter and option text disagree
            return None
        return chosen
    said_letters = {
        m
        for pair in re.findall(rf"(?:\(([{letters}])\)|\b(?:option|choice|answer is)\s+\(?([{letters}])\b)", said)
        for m in pair
        if m
    }
    if len(said_letters) == 1:
        chosen = said_letters.pop()
        return None if re.search(rf"\b(?:not|isn't)\s+(?:option\s+|choice\s+)?\(?{chosen}\b", said) else chosen
    if said_letters:
        return None
    named = [k for k, v in options.items() if words(v) and _spoken(words(v), whole)]
    named = [k for k in named if not any(k != o and words(options[k]) in words(options[o]) for o in named)]
    return (
        named[0]
        if len(named) == 1 and len(whole.split()) <= 40 and not _negated(words(options[named[0]]), whole)
        else None
    )


def _spoken(needle, hay):
    return f" {needle} " in f" {hay} "


def _negated(needle, hay):
    """True if every mention of the needle has a word of negation among the three words before it."""
    tokens, target = hay.split(), needle.split()
    places = [i for i in range(len(tokens) - len(target) + 1) if tokens[i : i + len(target)] == target]
    return bool(places) and all(_NEGATION & set(tokens[max(0, i - 3) : i]) for i in places)


def _pick_label(options, text):
    labels = {words(o): o for o in options}
    part = final_part(text)
    for piece in ([part] if part else []) + [text]:
        first = words(piece.strip().split("\n")[0])
        if first in labels:
            rest = words("\n".join(piece.strip().split("\n")[1:]))
            clash = [l for l in labels if l != first and rest == l]
            return None if clash else labels[first]
        if set(labels) <= {"yes", "no", "true", "false", "valid", "invalid"}:
            head = first.split()[:1]
            if (
                head
                and head[0] in labels
                and (
                    len(first.split()) < 2 or (first.split()[1] not in ("or", "and") and first.split()[1] not in labels)
                )
            ):
                return labels[head[0]]
            last = re.search(
                r"(?:\b(?:is|are|be|to)|=|:)\s*(yes|no|true|false|valid|invalid)\W*$",
                piece.strip().split("\n")[-1],
                re.IGNORECASE,
            )
            if last and last[1].lower() in labels:
                return labels[last[1].lower()]
            continue  # a yes or a True somewhere in a sentence is no answer
        hay = words(piece)
        if any("_" in o for o in options) and len(hay.split()) > 8:  # in prose an identifier counts only as written
            written = [
                o
                for o in options
                if re.search(rf"(?<![\w]){re.escape(o)}(?![\w])", piece)
                and ("_" in o or re.search(rf"[\"'`]{re.escape(o)}[\"'`]", piece))
            ]
            hay = " and ".join(words(o) for o in written)
        for label in sorted(
            labels, key=len, reverse=True
        ):  # longest first, so that a label inside another is not counted
            if _spoken(label, hay):
                if _negated(label, hay):
                    return None
                hay = f" {hay} ".replace(f" {label} ", f" <{label}> ").strip()
        found = set(re.findall(r"<([^>]+)>", hay))
        if found:
            return labels[found.pop()] if len(found) == 1 else None
    return None


# -- exact and contains_any --------------------------------------------------------------------------------------------


def _check_exact(check, text):
    golds = check["gold"] if isinstance(check["gold"], list) else [check["gold"]]
    text = plain(unfence(text))
    part = final_part(text)
    said = part or text
    tries = [said, said.split("\n")[0]]
    if check.get("literal") and not part:  # "The output of this code is: 9."
        lead = re.match(
            r"[^\n]*?\b(?:output|code|value|function|print\w*|returns?|it|f\([^\n]*\))(?:\b|(?<=\)))[^\n]*?\b(?:is|prints|returns|be)\b:?\s*(.+)",
            said.split("\n")[0],
            re.IGNORECASE,
        )
        tries += [lead[1]] if lead else []
    tries = [
        re.sub(r"^(?:output|answer|result|sorted(?: words| list)?)\s*:\s*", "", t.strip(), flags=re.IGNORECASE).strip()
        for t in tries
    ]
    for t in tries:
        for gold in golds:
            if check.get("literal"):
                if _literal(t) == _literal(gold):
                    return True
            elif words(t) == words(gold) and words(gold):
                return True
    return False


def _literal(text):
    """A Python value, compared with its type; text that is no literal counts as the bare string."""
    text = text.strip()
    for form in (text.rstrip(".") if re.search(r"[\w\])}'\"]\.$", text) else text, text):
        try:
            value = ast.literal_eval(form)
            if isinstance(value, (dict, set)) and form.count(",") != repr(value).count(","):
                break  # a key given twice
            return type(value).__name__, repr(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return "str", repr(text.strip("\"'"))


def _check_contains_any(check, text):
    text = plain(unfence(text))
    part = final_part(text)
    said = part or text
    hay = words(said)
    limit = check.get("max_words", 40)
    hay = " ".join(hay.split()[:limit])
    for alias in check["gold"]:
        needle = words(alias)
        if not needle or not _spoken(needle, hay) or _negated(needle, hay):
            continue
        around = re.search(rf"\bor (?:the )?{re.escape(needle)}\b|\b{re.escape(needle)} or\b", hay)
        if around and hay != needle:
            continue
        if any(_spoken(words(w), hay) for w in check.get("wrong", [])):
            continue
        return True
    return False


# -- json_fields -------------------------------------------------------------------------------------------------------


def _objects(text):
    """Every {...} in the text that reads as a JSON object or a Python dict."""
    depth, start, quote, skip = 0, None, None, False
    for i, c in enumerate(text):
        if skip:
            skip = False
        elif c == "\\":
            skip = True
        elif quote:
            quote = None if c == quote else quote
        elif c == '"' and depth:
            quote = c
        elif c == "{":
            start = i if depth == 0 else start
            depth += 1
        elif c == "}" and depth:
            depth -= 1
            if depth == 0:
                raw = re.sub(r",\s*([}\]])", r"\1", text[start : i + 1])
                for read in (json.loads, ast.literal_eval):
                    try:
                        value = read(raw)
                    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                        continue
                    if isinstance(value, dict):
                        yield value
                        break


_LEADING = re.compile(r"^(?:(?:the|a|an|my|in|at|on|for) )+")
_SPELT = {
    w: str(i)
    for i, w in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}


def _value_words(value):
    """Words of a field's value without a leading article or preposition; a number word counts as its digits."""
    text = _LEADING.sub("", words(value))
    return _SPELT.get(text, text)


def _same_value(got, golds):
    if isinstance(got, list) and len(got) == 1:
        got = got[0]
    if isinstance(got, bool) or got is None or isinstance(got, (list, dict)):
        return False
    for gold in golds if isinstance(golds, list) else [golds]:
        if words(got) and _value_words(got) == _value_words(gold):
            return True
        try:
            if float(str(got).replace(",", "").strip("$ ")) == float(str(gold).replace(",", "").strip("$ ")):
                return True
        except ValueError:
            pass
        if "@" in str(gold) and str(got).strip().lower() == str(gold).lower():
            return True
    return False


def _check_json_fields(check, text):
    found = list(_objects(text))
    if not found:
        return False
    got = {words(k): v for k, v in found[0].items()}
    if any({words(k): v for k, v in other.items()} != got for other in found[1:]):
        return False  # two different answers
    return all(words(k) in got and _same_value(got[words(k)], v) for k, v in check["gold"].items())


# -- python_tests ------------------------------------------------------------------------------------------------------

_GUARD = """
import sys
def _guard(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "shutil.", "ctypes.", "urllib.", "ftplib.", "smtplib.")):
        raise PermissionError(event)
    if event == "open" and isinstance(args[1], str) and any(m in args[1] for m in "wax+"):
        raise PermissionError(event)
sys.addaudithook(_guard)
"""


def code_of(text):
    """The code in an answer: all fenced blocks that hold Python, else from the first line of code on."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", text, re.DOTALL | re.IGNORECASE)
    blocks = [b for b in blocks if re.search(r"^\s*(?:def|class|from|import)\b|=\s*lambda", b, re.MULTILINE)]
    if blocks:
        return blocks[0] if "def " in blocks[0] or "lambda" in blocks[0] else "\n".join(blocks)
    lines = text.replace("```python", "").replace("```", "").split("\n")
    starts = [i for i, line in enumerate(lines) if re.match(r"(?:def|class|from|import|@)\b|\w+\s*=\s*lambda", line)]
    if not starts:
        return ""
    lines = lines[starts[0] :]
    while lines:  # trailing prose is not code
        try:
            ast.parse("\n".join(lines))
            break
        except SyntaxError:
            lines = lines[:-1]
    return "\n".join(lines)


def _limits():
    resource.setrlimit(resource.RLIMIT_CPU, (TEST_SECONDS, TEST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (TEST_MEMORY, TEST_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    os.setsid()


def _check_python_tests(check, text):
    code = code_of(text)
    if not code:
        return False
    token = secrets.token_hex(12)
    tests = "\n".join("    " + line for test in check["gold"] for line in test.split("\n"))
    program = (
        f"{_GUARD}\n{check.get('setup', '')}\n{code}\n\ndef _run_tests():\n{tests}\n\n_run_tests()\nprint({token!r})\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answer.py")
        with open(path, "w", encoding="utf-8") as f:
            f.write(program)
        try:
            done = subprocess.run(
                [sys.executable, "-I", path],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TEST_SECONDS,
                preexec_fn=_limits,
            )
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return False
    return done.returncode == 0 and done.stdout[-MAX_OUTPUT:].decode("utf-8", "replace").strip().endswith(token)


_CHECKS = {
    "number": _check_number,
    "choice": _check_choice,
    "exact": _check_exact,
    "contains_any": _check_contains_any,
    "json_fields": _check_json_fields,
    "python_tests": _check_python_tests,
}


if __name__ == "__main__":  # check.py questions.jsonl answers.jsonl  (answers: {"id", "answer"})
    rows = {r["id"]: r for r in map(json.loads, open(sys.argv[1], encoding="utf-8"))}
    results = [
        (a["id"], score(rows[a["id"]], a["answer"])) for a in map(json.loads, open(sys.argv[2], encoding="utf-8"))
    ]
    for name, right in results:
        print(name, right)
    print(f"{sum(r for _, r in results)} of {len(results)} right", file=sys.stderr)
