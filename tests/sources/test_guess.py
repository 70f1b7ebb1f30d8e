"""Columns are guessed right on sets as they are found."""

from __future__ import annotations

import csv
import os
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import only, put

from augmill.tasks.sources import SourceOptions, doubt_file, guess_columns, list_files

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[2].parent / "shared"))


def guessed(path: Path) -> dict[str, Any]:
    options = SourceOptions(path=str(path))
    out = guess_columns(list_files(options)[0], options)
    assert set(out["why"]) == {*out["text"], *filter(None, (out["label"], out["id"])), *out["date"]}
    return {key: value for key, value in out.items() if key not in ("why", "ask")}


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("banking77/raw/train.csv", ["text"], "category"),
        ("snips/train.jsonl", ["text"], "label"),
        ("fewclue_bustm/train_few_all.jsonl", ["text", "text_b"], "label"),
        ("fewclue_tnews/train_0.jsonl", ["text"], "label"),
        ("auggpt_outputs/AugGPT1/symptoms/novel_few_shot_data_search_2_2013.csv", ["text"], "labels"),
    ],
)
def test_real_sets(name: str, text: list[str], label: str) -> None:
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared sets are not here (AUGMILL_SHARED)")
    assert guessed(SHARED / "data" / name) == {"text": text, "label": label, "id": None, "date": []}


def test_ids_dates_and_labels_without_telling_names(tmp_path: Path) -> None:
    rows = "".join(f"{i},2026-01-{i % 28 + 1:02d},some longer words number {i},{'ab'[i % 2]}\n" for i in range(40))
    path = put(tmp_path / "a.csv", f"ticket_id,opened,said,kind\n{rows}")
    assert guessed(path) == {"text": ["said"], "label": "kind", "id": "ticket_id", "date": ["opened"]}


def test_an_id_that_repeats_is_none(tmp_path: Path) -> None:
    rows = "".join(f"{i // 2},some longer words number {i},{'ab'[i % 2]}\n" for i in range(40))
    assert guessed(put(tmp_path / "a.csv", f"user_id,text,label\n{rows}"))["id"] is None


def test_nothing_is_made_up(tmp_path: Path) -> None:
    file, options = only(put(tmp_path / "a.csv", "n,m\n" + "".join(f"{i},{i * 7}\n" for i in range(40))))
    assert guess_columns(file, options)["label"] is None


# The headers of sets as people have them: column=what its cells hold. L and S: long and short texts; {i}: the row; {mN}: one
# of N values; ~: a space. Then what a person would name: the texts, the label, the id.
SETS: dict[str, tuple[str, list[str], str, str | None]] = {
    "amazon": (
        "Id={i} ProductId=B{m9} UserId=U{m50} ProfileName=name{m40} HelpfulnessNumerator={m2} "
        "HelpfulnessDenominator={m3} Score={m5} Time=13038624{i2} Summary=S Text=L",
        ["Text"],
        "Score",
        "Id",
    ),
    "yelp": (
        "review_id=r{i} user_id=u{m50} business_id=b{m40} stars={m5} useful={m2} funny={m2} "
        "cool={m2} text=L date=2015-01-{d}",
        ["text"],
        "stars",
        "review_id",
    ),
    "imdb": ("review=L sentiment=c{m2}", ["review"], "sentiment", None),
    "agnews": ("Class~Index={m4} Title=S Description=L", ["Description"], "Class Index", None),
    "jigsaw": (
        "id={i} comment_text=L toxic={m2} severe_toxic={m2} obscene={m2} threat={m2} insult={m2} identity_hate={m2}",
        ["comment_text"],
        "toxic",
        "id",
    ),
    "tweets": ("target={m2} ids={i} date=Mon~Apr~06~{i} flag=NO_QUERY user=u{m30} text=L", ["text"], "target", "ids"),
    "sms": ("v1=c{m2} v2=L column_3= column_4= column_5=", ["v2"], "v1", None),
    "banking": ("text=L category=c{m9}", ["text"], "category", None),
    "quora": (
        "id={i} qid1={j} qid2={k} question1=L question2=L is_duplicate={m2}",
        ["question1", "question2"],
        "is_duplicate",
        "id",
    ),
    "snli": (
        "gold_label=c{m3} sentence1_binary_parse=P sentence2_binary_parse=P sentence1_parse=P "
        "sentence2_parse=P sentence1=L sentence2=L captionID=c{m40} pairID=p{i} label1=c{m3} label2=",
        ["sentence1", "sentence2"],
        "gold_label",
        "pairID",
    ),
    "mnli": ("premise=L hypothesis=L label={m3} idx={i}", ["premise", "hypothesis"], "label", "idx"),
    "zendesk": (
        "Id={i} Status=s{m3} Subject=S Description=L Requester=u{m40} Assignee=a{m4} Group=g{m3} "
        "Priority=p{m4} Type=t{m3} Tags=a{m9},b Created~at=2024-01-{d}",
        ["Description"],
        "Group",
        "Id",
    ),
    "hf": ("label={m4} text=L", ["text"], "label", None),
    "setfit": ("text=L label={m4} label_text=c{m4}", ["text"], "label", None),
    "enron": (
        "Message~ID={i} Subject=S Message=L Spam/Ham=c{m2} Date=2001-05-{d}",
        ["Message"],
        "Spam/Ham",
        "Message ID",
    ),
    "dbpedia": ("label={m14} title=S content=L", ["content"], "label", None),
    "trec": ("text=L coarse_label={m6} fine_label={m40}", ["text"], "coarse_label", None),
    "airline": (
        "tweet_id={i} airline_sentiment=s{m3} airline_sentiment_confidence=0.{m50} "
        "negativereason=r{m9} negativereason_confidence=0.{m50} airline=a{m6} "
        "airline_sentiment_gold= name=n{m40} negativereason_gold= retweet_count={m3} text=L "
        "tweet_coord= tweet_created=2015-02-24~11:35:52~-0800 tweet_location=x{m30} "
        "user_timezone=z{m9}",
        ["text"],
        "airline_sentiment",
        "tweet_id",
    ),
    "clothing": (
        "column_1={i} Clothing~ID={m50} Age={m40} Title=S Review~Text=L Rating={m5} "
        "Recommended~IND={m2} Positive~Feedback~Count={m9} Division~Name=d{m3} Department~Name=e{m6} "
        "Class~Name=f{m9}",
        ["Review Text"],
        "Rating",
        "column_1",
    ),
    "complaints": (
        "Date~received=2020-01-{d} Product=p{m9} Sub-product=q{m30} Issue=i{m40} Sub-issue=j{m50} "
        "Consumer~complaint~narrative=L Company=c{m50} State=s{m30} ZIP~code=z{m50} Complaint~ID={i}",
        ["Consumer complaint narrative"],
        "Product",
        "Complaint ID",
    ),
    "huffpost": (
        "link=https://x.org/{i} headline=S category=c{m14} short_description=L authors=a{m50} date=2018-05-{d}",
        ["short_description"],
        "category",
        None,
    ),
    "appreviews": (
        "reviewId=r{i} userName=u{m50} userImage=https://x/{m50} content=L score={m5} "
        "thumbsUpCount={m3} reviewCreatedVersion=v{m9} at=2020-01-{d} replyContent=S",
        ["content"],
        "score",
        "reviewId",
    ),
    "bitext": ("flags=f{m9} instruction=L category=c{m9} intent=i{m14} response=P", ["instruction"], "category", None),
    "sst": ("PhraseId={i} SentenceId={m40} Phrase=L Sentiment={m5}", ["Phrase"], "Sentiment", "PhraseId"),
    "fakenews": ("id={i} title=S author=a{m40} text=L label={m2}", ["text"], "label", "id"),
    "insincere": ("qid=q{i} question_text=L target={m2}", ["question_text"], "target", None),
    "disaster": ("id={i} keyword=k{m30} location=l{m50} text=L target={m2}", ["text"], "target", "id"),
    "hate": (
        "column_1={i} count={m3} hate_speech={m3} offensive_language={m3} neither={m3} class={m3} tweet=L",
        ["tweet"],
        "class",
        "column_1",
    ),
    "stackoverflow": ("Id={i} Title=S Body=L Tags=<a><b{m9}> CreationDate=2016-01-01 Y=c{m3}", ["Body"], "Y", "Id"),
    "title_url": (
        "url=https://example.org/some/long/path/of/a/page/{i}/that/is/longer/than/any/text/you/may/find/here/really "
        "name=N{m50} comment=S label=c{m2}",
        ["comment"],
        "label",
        None,
    ),
    "goemo": (
        "text=L id=x{i} author=a{m50} subreddit=s{m40} link_id=l{m50} rater_id={m9} admiration={m2} "
        "amusement={m2} anger={m2} joy={m2}",
        ["text"],
        "admiration",
        "id",
    ),
}
LONG = "long text words number {i} about some thing or another that goes on and on for quite a while"
CELLS = {"L": LONG, "S": "short words {i}", "P": f"( {LONG} ( {LONG} ) )"}


def write_set(path: Path, spec: str) -> Path:
    """120 rows; what {mN} is in a row is drawn."""
    drawn, columns = random.Random(3), [part.split("=", 1) for part in spec.split(" ")]
    kinds = [tuple(map(int, re.findall(r"{m(\d+)}", cell))) for _, cell in columns]
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow([name.replace("~", " ") for name, _ in columns])
        for at in range(120):
            known = {"i": at, "j": 2 * at, "k": 2 * at + 1, "i2": f"{at:03}", "d": f"{at % 28 + 1:02}"}
            cells = []
            for (_, cell), sizes in zip(columns, kinds, strict=True):
                values = known | {f"m{size}": drawn.randrange(size) for size in sizes}
                cells.append(CELLS.get(cell, cell).replace("~", " ").format(**values))
            rows.writerow(cells)
    return path


@pytest.mark.parametrize("name", SETS)
def test_columns_are_those_that_people_would_name(tmp_path: Path, name: str) -> None:
    spec, text, label, identifier = SETS[name]
    path = write_set(tmp_path / "a.csv", spec)
    found = guessed(path)
    assert (found["text"], found["label"], found["id"]) == (text, label, identifier)
    assert doubt_file(*only(path)) is None


def asked(path: Path) -> list[str]:
    file, options = only(path)
    found: list[str] = guess_columns(file, options)["ask"]
    return found


def test_several_columns_of_0_and_1_are_a_question(tmp_path: Path) -> None:
    (question,) = asked(write_set(tmp_path / "a.csv", SETS["jigsaw"][0]))
    for words in ("6 columns hold only 0 and 1", "is 'toxic' the label", "--label", "not supported", "idxmax"):
        assert words in question
    for name in ("quora", "hate", "imdb"):  # one such column, and a column that is named as the label
        assert not [words for words in asked(write_set(tmp_path / f"{name}.csv", SETS[name][0])) if "0 and 1" in words]


def test_the_advice_on_several_labels_makes_one_column(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = write_set(tmp_path / "a.csv", SETS["jigsaw"][0])
    (question,) = asked(path)
    df = pandas.read_csv(path)
    scope = {"df": df, "FLAGS": list(df.columns[2:])}
    exec(question[question.index('df["label"]') :], scope)
    for row in df.to_dict("records"):
        first = next((name for name in scope["FLAGS"] if row[name]), "none")
        assert row["label"] == first


def test_a_headline_beside_the_text_is_a_question(tmp_path: Path) -> None:
    (question,) = asked(write_set(tmp_path / "a.csv", SETS["agnews"][0]))
    assert "--text Title --text Description" in question


def test_seconds_since_1970_are_no_dates(tmp_path: Path) -> None:
    assert guessed(write_set(tmp_path / "a.csv", SETS["amazon"][0]))["date"] == []
    assert guessed(write_set(tmp_path / "b.csv", "created=1700000{i2} text=L label=c{m2}"))["date"] == []
    assert guessed(write_set(tmp_path / "c.csv", "created=202401{d} text=L label=c{m2}"))["date"] == ["created"]


@pytest.mark.parametrize("labels", [[Decimal(0), Decimal(1)], [0.0, 1.0], [0, 1]])
def test_whole_numbers_of_any_type_are_labels_as_ingest_takes_them(tmp_path: Path, labels: list[Any]) -> None:
    table = pa.table({"text": [f"a text of its own, {at}" for at in range(40)], "label": labels * 20})
    pq.write_table(table, tmp_path / "a.parquet")
    assert guessed(tmp_path / "a.parquet")["label"] == "label"


def test_digits_are_no_text(tmp_path: Path) -> None:
    rows = "".join(f"{at % 7},tag {at},1445714{at:03}\n" for at in range(60))
    (tmp_path / "a.csv").write_text(f"userId,tag,timestamp\n{rows}")  # MovieLens
    assert guessed(tmp_path / "a.csv")["text"] == ["tag"]
