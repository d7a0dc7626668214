"""What lower floors say is told in Chinese: a refusal without a translation, of any module, fails here."""

import ast
import errno
import json
import os
import re
from collections.abc import Callable, Iterator

import pytest

from labkit.core import errors
from labkit.core.errors import LabkitError, UsageError
from labkit.core.language import VARIABLE, is_chinese
from labkit.core.workload import WORKLOADS, resized
from labkit.interview.quantities import dimension_of
from labkit.model.source import open_model
from labkit.optimizations import CATALOG, bind
from labkit.runner.plan import Plan
from labkit.runner.sweep import parse_rates
from labkit.text.corpus import open_corpus
from labkit.ui.language import FOLDER, messages, retold
from tests.ui.test_language import ROOT, names

ABOVE = ("cli", "ui")  # a command's own usage errors stay English, and this floor says the rest by `tr`
MADE_BY_PARTS = ("bench/compare.py", "bench/comparison.py", "interview/bank.py", "model/native")
"""Told whole in `test_language`; a bank of questions that is broken is told to whoever writes one."""

ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LabkitError)}
NO_MESSAGES = {"ValueError", "TypeError", "RuntimeError", "AttributeError", "TimeoutError", "knob", "Text"}
"""Calls that take sentences which are for whoever calls them wrongly, or are told from elsewhere."""

FACTS = {
    "trained for labkit, ships with it", "docstrings of the standard library", "Prefill on the GPU", "layer of torch",
    "matrices 7, embedding and head too; KV cache f16", "Sparse CSR tensor support is in beta", "; its last words: 7",
}  # fmt: skip
"""Sentences that no reader is told in a panel, and the end of one that is told whole."""

SENTENCE = re.compile(r"[a-z]{2,} [a-z]+ [a-z]{2,}")
COMMANDS = re.compile(r"git lfs pull|hf auth login|(un)?pip install [\w-]+|`labkit [^`]*`|labkit bench [\w -]*")


@pytest.fixture(autouse=True)
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "zh")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(ABOVE):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def text_of(node: ast.expr) -> str | None:
    """A string as it would be said, with a 7 for each value in it; None for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = (part.value if isinstance(part, ast.Constant) else "'7'" if part.conversion == ord("r") else "7"
             for part in node.values if isinstance(part, ast.Constant | ast.FormattedValue))  # fmt: skip
    return "".join(map(str, parts))


def raised() -> Iterator[str]:
    """Every message that an error of labkit is made with; those of `UsageError.unknown` with its frame."""
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and (text := text_of(node.args[0])) is not None:
                called = ast.unparse(node.func)
                if called in ERRORS:
                    yield text
                elif called == "UsageError.unknown":
                    yield str(UsageError.unknown(text, "x", "ab"))


def parts() -> Iterator[str]:
    """Every other sentence of these modules: reasons, remedies, progress; no docstrings, no help."""
    for name, tree in modules():
        if name.startswith(MADE_BY_PARTS):
            continue
        left_out: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr):
                left_out.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                left_out.update(node.values)
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ERRORS | {"UsageError.unknown"}:
                    left_out.add(node.args[0])
                elif called in NO_MESSAGES and name != "core/replay.py":  # whose ValueErrors are quoted in a refusal
                    left_out.update(ast.walk(node))
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.expr) and node not in left_out)
        yield from (text for node in nodes if (text := text_of(node)) is not None and SENTENCE.search(text))


def pythons() -> set[str]:
    """What Python and the system say, and refusals quote."""
    return set(json.loads((FOLDER / "messages" / "python.json").read_text(encoding="utf-8")))


def is_told(message: str) -> bool:
    """Whether its translation is Chinese and holds no English sentence any more."""
    told = retold(message)
    return is_chinese(told) and not SENTENCE.search(COMMANDS.sub("", told))


def test_every_refusal_is_told() -> None:
    found = list(raised())
    assert len(found) > 200
    assert [message for message in found if not is_told(message)] == []


def test_every_part_of_a_message_is_told() -> None:
    found = set(parts()) - FACTS
    assert len(found) > 60
    assert sorted(text for text in found if "pip install" not in text and not is_told(text)) == []


def test_kinds_of_unknown_things_are_told() -> None:
    for message in raised():
        if message.startswith("unknown ") and message.endswith("allowed: a, b"):
            kind = message.removeprefix("unknown ").removesuffix(" 'x'; allowed: a, b")
            assert f"未知的{kind}" not in retold(message), kind


def test_what_techniques_need_and_refuse_is_told() -> None:
    for kind in CATALOG:
        assert all(is_told(reason) for reason in kind.conflicts.values())
        for need in kind.needs:
            assert is_chinese(retold(need.name)) or need.name in ("cuda", "tensorflow", "torchao")
            assert not (reason := need.missing()) or is_told(reason)


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (lambda: bind("kv_cach"), "未知的技术 'kv_cach'；可选：prune, "),
        (lambda: bind("quantize(bit=4)"), "未知的 quantize 选项 'bit'；可选：bits, "),
        (lambda: bind("quantize(bits=3)"), "未知的 quantize 选项 bits 的值 '3'；可选：8, 4"),
        (lambda: bind("kv_cache(dtype='it''s')"), "未知的 kv_cache 选项 dtype 的值 'its'；可选：auto, "),
        (lambda: bind("speculative(draft='')"), "未知的 speculative 选项 draft 的值 ''；可选：ngram, half；或任意"),
        (lambda: bind("prune(sparsity=2)"), "prune 的选项 sparsity 是 2；可用：0 到 0.99 的数"),
        (lambda: bind("kv_cache +"), "读不懂配方 'kv_cache +'（语法错误）；写法如：kv_cache + quantize(bits=8)"),
        (lambda: bind("kv_cache + kv_cache"), "配方里 'kv_cache' 出现了两次；每项技术只写一次"),
        (lambda: bind("prefix_cache"), "prefix_cache 要求同一配方里有 kv_cache；请加上"),
        (
            lambda: bind("kv_cache + static_batching + dynamic_batching"),
            "static_batching 和 dynamic_batching 同占 'scheduler' 这个位置，那里只能有一项；请保留一项",
        ),
        (lambda: bind("offload + replicas"), "offload 不能与 replicas 同用：副本划分的是 CPU 核"),
        (lambda: resized(WORKLOADS["chat"], prompt_tokens=0), "工作负载 'chat' 的 prompt_tokens 是 0；可用：1 到 "),
        (lambda: parse_rates(["soon"]), "要求速率 'soon'；可用：每秒请求数，例如 4，或 auto"),
        (lambda: Plan(model="pylm", spec=WORKLOADS["chat"], recipes=()), "没有给出配方；至少给一个"),
        (lambda: open_model("/none"), "模型文件夹 /none 不存在；应为含 config.json、"),
        (lambda: open_model("qwen"), "未知的模型 'qwen'；可选：pylm, "),
        (lambda: open_corpus("/none/here.csv"), "语料 '/none/here.csv' 读不了：没有这个文件或目录"),
        (lambda: dimension_of("least_tpot_s").value("soon"), "读不懂回答 'soon'；请写数字加单位，例如 "),
    ],
)  # fmt: skip
def test_what_a_panel_refuses_reads_as_a_sentence(refused: Callable[[], object], told: str) -> None:
    with pytest.raises(LabkitError) as error:
        refused()
    assert retold(str(error.value)).startswith(told)


def test_messages_name_the_same_in_both_languages() -> None:
    for english, chinese in messages().items():
        assert names(chinese) == names(english)
        assert is_chinese(chinese)


def test_every_message_is_said_below() -> None:
    words = {word for _, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Constant)
             for word in re.findall(r"\w+", str(node.value))}  # fmt: skip
    for english in messages().keys() - pythons():
        assert set(re.findall(r"\w+", re.sub(r"\{\w+\}", " ", english))) <= words, english


@pytest.mark.parametrize(
    "text",
    ["kv_cache(", "kv_cache)", "quantize(bits=8]", "kv_cache +", "quantize(bits=8, bits=4)", "quantize(bits=8, 4)",
     "kv_cache(dtype='int8)", "quantize(bits=)", "quantize(bits 8)"],
)  # fmt: skip
def test_what_python_says_of_a_recipe_is_told(text: str) -> None:
    with pytest.raises(UsageError) as error:
        bind(text)
    assert is_told(str(error.value))
    assert not re.search(r"（[^）]*[a-z]{3}[^）]*）", retold(str(error.value)))


@pytest.mark.parametrize(
    "number",
    [errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
     errno.ELOOP],
)  # fmt: skip
def test_what_the_system_says_of_a_file_is_told(number: int) -> None:
    assert is_chinese(retold(os.strerror(number)))


def test_what_no_pattern_fits_stays_as_it_is() -> None:
    assert retold("nobody ever said this") == "nobody ever said this"


def test_english_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert retold("computing the reference") == "computing the reference"
