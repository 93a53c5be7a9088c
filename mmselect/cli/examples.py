"""The examples at the end of every help page, by command.

They run as they stand in the folder that ``mmselect demo`` writes, and in this order;
``scripts/build_docs.py --check`` does that.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("mmselect demo", "mmselect demo somewhere-else"),
    "pack": (
        "mmselect pack -o small.h5 --features image=emoji.h5:/features/image \\\n"
        "    --id emoji.h5:/id",
        "mmselect pack -o round2.h5 --from emoji.h5 \\\n"
        "    --multimodal-logits emoji.h5:/unimodal_logits/text",
    ),
    "check": ("mmselect check emoji.h5", "mmselect check -q emoji.h5 --memory 64MB"),
    "info": ("mmselect info emoji.h5", "mmselect info emoji.h5 --format json --full"),
    "strategies": (
        "mmselect strategies",
        "mmselect strategies bmmal",
        "mmselect strategies smem emoji.h5 --format json",
    ),
    "score": (
        "mmselect score emoji.h5 --strategy smem -o scores.csv",
        "mmselect score emoji.h5 -s smem -p gamma=0 --where vendor=google",
        "mmselect score emoji.h5 -s entropy --columns name,vendor -o entropy.jsonl",
    ),
    "select": (
        "mmselect select emoji.h5 --budget 60 --where split=train -o picks.txt",
        "mmselect select emoji.h5 -b 5% -s bmmal --exclude picks.txt --seed 1",
        "mmselect select emoji.h5 -b 60 -s smem --group character:1 -o picks.json",
    ),
    "look": (
        "mmselect look emoji.h5 picks.txt -o page.html",
        "mmselect look emoji.h5 --budget 60 --where split=train -o page.html",
        "mmselect look emoji.h5 picks.txt --text name --columns vendor -o page.html",
    ),
    "verify": (
        "mmselect verify picks.json",
        "mmselect verify picks.json emoji.h5 --format json",
    ),
    "diff": (
        "mmselect diff picks.json picks.txt",
        "mmselect diff picks.json picks.txt emoji.h5 --columns vendor,group",
    ),
    "embed": (
        "mmselect embed emoji.h5 -o factors.h5",
        "mmselect embed emoji.h5 -o sketch.h5 --form sketch --dim 256",
    ),
    "align": (
        "mmselect align emoji.h5 -o aligned.h5 --epochs 2 --dim 32",
        "mmselect align emoji.h5 -o aligned.h5 --epochs 1 --prototypes 0 --format json",
    ),
    "replay": (
        "mmselect replay emoji.h5 -s smem,random --rounds 1 --seeds 2 --target 70%",
        "mmselect replay emoji.h5 --rounds 0 --start kmeans,random -b 1% --seeds 2",
        "mmselect replay emoji.h5 -s smem,random --runs trained --dry-run \\\n"
        "    --train 'python train.py {labeled} {pool} {out} --seed {seed}'",
    ),
}
"""By command; each line has at most 76 characters, so that none is broken at 80 columns."""
