"""Glossary: every metric with its formula, in English and Chinese. `docs/glossary.md` is made of this table."""

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.core.language import Text

_HEAD = """# Glossary · 术语表

Made by `labkit catalog --glossary` from `labkit/ui/glossary.py`. Times are in seconds and count from the moment
a request was meant to arrive, whether or not it was sent by then.

由 `labkit catalog --glossary` 从 `labkit/ui/glossary.py` 生成。时间以秒计，
从请求预定到达的时刻算起，不管实际是否已经发出。
"""


@dataclass(frozen=True)
class Term:
    """A metric: its name in Runs and exports, what it is called, its formula, what it says."""

    name: str
    title: Text
    formula: str
    said: Text


@dataclass(frozen=True)
class Group:
    """Terms that belong together."""

    title: Text
    terms: Sequence[Term]


GLOSSARY = (
    Group(
        Text("Latency of a request", "请求的延迟"),
        (
            Term(
                "ttft_s",
                Text("TTFT, time to first token", "TTFT，首 token 延迟"),
                "first_output − arrival",
                Text("waiting and prefill: how long nothing is seen", "排队加预填充：用户看到第一个字之前的时间"),
            ),
            Term(
                "queue_s",
                Text("queue time", "排队时间"),
                "scheduled − arrival",
                Text("the part of TTFT before work began", "TTFT 中开始处理之前的部分"),
            ),
            Term(
                "prefill_s",
                Text("prefill time", "预填充时间"),
                "first_output − scheduled",
                Text("the rest of TTFT: the prompt is computed", "TTFT 的其余部分：计算提示词"),
            ),
            Term(
                "itl_s",
                Text("ITL, inter-token latency", "ITL，token 间延迟"),
                "output[i] − output[i − 1], i > 0",
                Text("every gap, pooled over requests; its tail is stutter", "所有请求的每一个间隔；尾部就是卡顿"),
            ),
            Term(
                "tpot_s",
                Text("TPOT, time per output token", "TPOT，每个输出 token 的时间"),
                "(last_output − first_output) / (outputs − 1)",
                Text("one mean a request, of the tokens after its first", "每个请求一个值，不含首 token"),
            ),
            Term(
                "e2e_s",
                Text("end-to-end latency", "端到端延迟"),
                "last_output − arrival = ttft_s + (outputs − 1) · tpot_s",
                Text("until the answer is whole", "直到回答完整"),
            ),
        ),
    ),
    Group(
        Text("Rates of a pass", "一轮的速率"),
        (
            Term(
                "output_tok_per_s",
                Text("output rate", "输出速率"),
                "outputs / time",
                Text(
                    "prefill and decode; at a rate of requests over the steady window only",
                    "含预填充和解码；按速率发送时只算稳定窗口",
                ),
            ),
            Term(
                "requests_per_s",
                Text("request rate", "请求速率"),
                "requests_done / time",
                Text("over the same time", "同一时间段"),
            ),
            Term(
                "prefill_tok_per_s",
                Text("prefill rate", "预填充速率"),
                "prompt_tokens / time in which some request is in prefill",
                Text("time that requests share counts once", "多个请求重叠的时间只算一次"),
            ),
            Term(
                "decode_tok_per_s",
                Text("decode rate", "解码速率"),
                "(outputs − requests) / time in which some request is in decode",
                Text("tokens after the first; verdicts are on this", "首 token 之后的 token；结论以此为准"),
            ),
            Term(
                "goodput_per_s",
                Text("goodput", "有效吞吐"),
                "requests with ttft_s ≤ limit and tpot_s ≤ limit / time",
                Text("only what was on time counts", "只计入按时完成的请求"),
            ),
        ),
    ),
    Group(
        Text("Counts of techniques", "各项技术的计数"),
        (
            Term(
                "acceptance_rate",
                Text("acceptance rate", "接受率"),
                "guesses kept / guesses made",
                Text("speculative decoding only", "仅投机解码"),
            ),
            Term(
                "tokens_per_step",
                Text("tokens per step", "每步 token 数"),
                "outputs after the first / steps for them = (1 − αᵏ⁺¹) / (1 − α) for independent guesses",
                Text("what a reading of the weights yields", "读一遍权重得到几个 token"),
            ),
            Term(
                "prefix_hit_rate",
                Text("prefix hit rate", "前缀命中率"),
                "prompt tokens copied / prompt tokens",
                Text("prefix cache only", "仅前缀缓存"),
            ),
            Term(
                "prefix_bytes",
                Text("prefix bytes", "前缀占用"),
                "max over passes of stored bytes",
                Text("memory that stored prefixes take", "存储的前缀占用的内存"),
            ),
            Term(
                "batch_mean",
                Text("mean batch", "平均批大小"),
                "sequences decoded / decoding steps",
                Text("only where several ran together", "仅当有多个序列一起运行时"),
            ),
            Term(
                "padding_rate",
                Text("padding", "补齐比例"),
                "padding rows / prompt rows",
                Text("computed for nothing", "白算的部分"),
            ),
            Term(
                "preemptions",
                Text("preemptions", "抢占次数"),
                "requests that gave their memory back / passes",
                Text("their text so far is computed again", "之前的文本要重新计算"),
            ),
            Term(
                "scheduling_share",
                Text("scheduling share", "调度占比"),
                "time spent on deciding / time",
                Text("price of deciding anew at each step", "每一步重新决策的代价"),
            ),
            Term(
                "communication_share",
                Text("communication share", "通信占比"),
                "time spent on messages / time",
                Text("of a process, split models only", "单个进程的，仅拆分的模型"),
            ),
            Term(
                "communication_bytes",
                Text("communication bytes", "通信字节"),
                "bytes sent by a process / outputs",
                Text(
                    "tensor parallel: 2 · layers · 2 (n − 1)/n · width · bytes a value, for a token",
                    "张量并行：每 token 2 · 层数 · 2 (n − 1)/n · 隐藏维度 · 每值字节数",
                ),
            ),
            Term(
                "bubble_share",
                Text("bubble", "气泡"),
                "time waited for other stages / time = (n − 1) / (m + n − 1) for equal stages",
                Text("pipelines only; m microbatches, n stages", "仅流水线；m 个微批，n 级"),
            ),
            Term(
                "vectorize_share",
                Text("vectorizing share", "向量化占比"),
                "time spent on making vectors of texts / time",
                Text("text similarity only", "仅文本相似度"),
            ),
        ),
    ),
    Group(
        Text("Quality, against the fp32 reference", "质量，与 fp32 参考对照"),
        (
            Term(
                "perplexity",
                Text("perplexity", "困惑度"),
                "exp(−mean log p(next token))",
                Text("on held-out text", "在留出文本上"),
            ),
            Term(
                "perplexity_ratio",
                Text("perplexity ratio", "困惑度之比"),
                "perplexity / perplexity of the reference",
                Text("1 is no loss", "1 表示没有损失"),
            ),
            Term(
                "kl_mean",
                Text("mean KL divergence", "平均 KL 散度"),
                "mean Σ p_ref log(p_ref / p)",
                Text("how far the next-token distributions are apart", "下一 token 分布相差多远"),
            ),
            Term(
                "kl_p99",
                Text("p99 KL divergence", "KL 散度 p99"),
                "99th percentile of the same over positions",
                Text("where the model changed its mind", "模型“改主意”的位置"),
            ),
            Term(
                "same_top1_rate",
                Text("same top token", "首选 token 相同比例"),
                "positions with equal argmax / positions",
                Text("how soon greedy texts part", "贪心文本多快会分叉"),
            ),
            Term(
                "recall_at_10",
                Text("recall@10", "recall@10"),
                "neighbours found among the ten of exact TF-IDF / 10",
                Text("text similarity only", "仅文本相似度"),
            ),
            Term(
                "accuracy",
                Text("accuracy", "准确率"),
                "texts classified right / texts",
                Text("text classification only", "仅文本分类"),
            ),
            Term(
                "macro_f1",
                Text("macro-F1", "宏平均 F1"),
                "mean over topics of 2 · precision · recall / (precision + recall)",
                Text("rare topics count as much as frequent ones", "稀少的主题与常见的主题同等对待"),
            ),
            Term(
                "precision_at_10",
                Text("precision@10", "precision@10"),
                "found texts of the query's own module or topic / 10",
                Text("text similarity only", "仅文本相似度"),
            ),
        ),
    ),
    Group(
        Text("Limit, prediction and verdict", "极限、预测与结论"),
        (
            Term(
                "limit",
                Text("limit", "极限"),
                "Σ phases max(bytes / bandwidth, FLOPs / rate)",
                Text("the least time that this machine allows", "这台机器允许的最短时间"),
            ),
            Term(
                "share of the limit",
                Text("share of the limit", "占极限的比例"),
                "measured rate / highest rate that the limit allows",
                Text("above 105 % the Run is INVALID(limit)", "超过 105 % 则该次测量为 INVALID(limit)"),
            ),
            Term(
                "prediction",
                Text("prediction", "预测"),
                "limit terms + kernels + dispatch + communication",
                Text("the residual is shown beside it", "旁边给出未解释的部分"),
            ),
            Term(
                "arithmetic intensity",
                Text("arithmetic intensity", "算术强度"),
                "FLOPs / bytes moved",
                Text("below the ridge, rate / bandwidth, memory bounds", "低于拐点（算力 / 带宽）则受内存限制"),
            ),
            Term(
                "ratio",
                Text("ratio", "比值"),
                "exp(mean log(rate / rate of the baseline in the same block))",
                Text("with its 99 % interval by sign flips", "附符号翻转法的 99 % 区间"),
            ),
        ),
    ),
)
"""Groups in the order that a lesson meets them."""


def markdown() -> str:
    """The table as a document."""
    return f"{_HEAD}\n" + "\n".join(_section(group) for group in GLOSSARY)


def _section(group: Group) -> str:
    rows = [
        f"## {group.title.en} · {group.title.zh}\n",
        "| name | is | formula | says |",
        "|---|---|---|---|",
        *(f"| `{term.name}` | {_both(term.title)} | {term.formula} | {_both(term.said)} |" for term in group.terms),
    ]
    return "\n".join(rows) + "\n"


def _both(text: Text) -> str:
    return text.en if text.en == text.zh else f"{text.en}<br>{text.zh}"
