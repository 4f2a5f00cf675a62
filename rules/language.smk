"""Language models: pruning for their own loss, adaptation to a text, compression of the update."""

LANGUAGE_MODEL = ("{model}", "{seed}")
ON_LANGUAGE_MODEL = f"{RESULTS} --model {{wildcards.model}} --seed {{wildcards.seed}}"
PERPLEXITIES = ("perplexity.csv", "losses.parquet")


rule prune_language_model:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        text=PATHS.text("pruning") / "manifest.json",
    output:
        [PATHS.experiment("pruning", *LANGUAGE_MODEL) / name for name in PERPLEXITIES],
    log:
        PATHS.log("prune_language_model", *LANGUAGE_MODEL),
    benchmark:
        PATHS.benchmark("prune_language_model", *LANGUAGE_MODEL)
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=as_json(STUDY.language_settings("pruning")),
        code=code_hash("study.prune_language_model"),
    shell:
        logged("study.prune_language_model", ON_LANGUAGE_MODEL)


rule adapt_language_model:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        text=PATHS.text("adaptation") / "manifest.json",
    output:
        PATHS.adapted(*LANGUAGE_MODEL) / "manifest.json",
    log:
        PATHS.log("adapt_language_model", *LANGUAGE_MODEL),
    benchmark:
        PATHS.benchmark("adapt_language_model", *LANGUAGE_MODEL)
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=as_json(STUDY.adaptation_settings()),
        code=code_hash("study.adapt_language_model"),
    shell:
        logged("study.adapt_language_model", ON_LANGUAGE_MODEL)


rule compress_language_model:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        text=PATHS.text("adaptation") / "manifest.json",
        adapted=rules.adapt_language_model.output,
    output:
        [PATHS.experiment("adaptation", *LANGUAGE_MODEL) / name for name in PERPLEXITIES],
    log:
        PATHS.log("compress_language_model", *LANGUAGE_MODEL),
    benchmark:
        PATHS.benchmark("compress_language_model", *LANGUAGE_MODEL)
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY.language_settings("adaptation")),
        code=RULES.method_code("study.compress_language_model", STUDY.adaptation_methods),
    shell:
        logged("study.compress_language_model", ON_LANGUAGE_MODEL)


rule collect_perplexity:
    input:
        RULES.perplexities(),
    output:
        PATHS.table("perplexity"),
    log:
        PATHS.log("collect_perplexity"),
    conda:
        ENVIRONMENT
    params:
        settings=as_json([STUDY.experiments, STUDY.language_axes]),
        code=code_hash("study.perplexity"),
    shell:
        logged("study.perplexity", f"{RESULTS}")
