"""Collected results and their evaluation: scores, provenance, spread of the kept entries, statistics, verdicts."""

from report import outputs


rule collect_scores:
    input:
        RULES.suggestions(),
        RULES.scores(),
        RULES.inference(),
        RULES.checks(),
        RULES.finetuned_manifests(),
    output:
        [PATHS.table(name) for name in RULES.collected],
        PATHS.collected,
    log:
        PATHS.log("collect_scores"),
    benchmark:
        PATHS.benchmark("collect_scores")
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY.collection_settings()),
        code=code_hash("study.collect"),
    shell:
        logged("study.collect", f"{RESULTS}")


rule record_provenance:
    input:
        PATHS.table("scores"),
        [PATHS.table("perplexity") for _ in STUDY.experiments[:1]],
    output:
        PATHS.provenance,
    log:
        PATHS.log("record_provenance"),
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY.config),
        code=code_hash("study.record"),
    shell:
        logged("study.record", f"{RESULTS}")


rule describe_spread:
    input:
        RULES.spread_scores(),
    output:
        PATHS.table("spread"),
    log:
        PATHS.log("describe_spread"),
    benchmark:
        PATHS.benchmark("describe_spread")
    conda:
        ENVIRONMENT
    params:
        files=RULES.spread_files(),
        draws=STUDY.config["spread"]["draws"],
        code=code_hash("report.spread"),
    shell:
        logged("report.spread", "{params.files} --draws {params.draws} --out {output}")


rule describe_updates:
    input:
        [PATHS.finetuned(*cell) / "manifest.json" for cell in STUDY.described_cells],
    output:
        PATHS.table("updates"),
        PATHS.table("choices"),
    log:
        PATHS.log("describe_updates"),
    benchmark:
        PATHS.benchmark("describe_updates")
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=as_json([STUDY.axes, STUDY.config["kept_shares"], *(["first"] if STUDY.removes_files else [])]),
        code=code_hash("study.updates"),
    shell:
        logged("study.updates", f"{RESULTS}")


rule measure_pruning_time:
    output:
        PATHS.table("timing"),
    log:
        PATHS.log("measure_pruning_time"),
    conda:
        ENVIRONMENT
    params:
        settings=as_json(STUDY.config["timing"]),
        code=code_hash("study.timing"),
    shell:
        logged("study.timing", f"{RESULTS}")


rule compute_statistics:
    input:
        PATHS.table("scores"),
        PATHS.table("models"),
    output:
        [PATHS.report("statistics", f"{name}.csv") for name in outputs.STATISTICS],
    log:
        PATHS.log("compute_statistics"),
    benchmark:
        PATHS.benchmark("compute_statistics")
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.statistics"),
    shell:
        logged("report.statistics", f"--results {RESULTS} --out {RESULTS}/statistics")


rule judge_claims:
    input:
        PATHS.table("scores"),
        PATHS.table("models"),
        PATHS.table("tasks"),
        RULES.measured_tables(),
        rules="config/claims.yaml",
    output:
        report(PATHS.table("claims"), caption="../report/captions/claims.rst", category="Verdicts"),
    log:
        PATHS.log("judge_claims"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.claims"),
    shell:
        logged("report.claims", f"--results {RESULTS} --rules {{input.rules}} --out {{output}}")
