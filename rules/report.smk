"""Tables, figures, the page, tables for a paper, and the list of all files."""

from report import outputs

TABLES, FIGURES = outputs.table_names(STUDY.parts), outputs.figure_names(STUDY.parts)
CAPTIONED = ("summary", "frontier")  # in Snakemake's own report


rule make_tables:
    input:
        [PATHS.table(name) for name in (*RULES.collected, "claims")],
        RULES.measured_tables(),
        rules.compute_statistics.output,
    output:
        [PATHS.report("tables", f"{table}.{kind}") for table in TABLES for kind in ("csv", "md")],
        PATHS.report("tables", "counts.json"),
    log:
        PATHS.log("make_tables"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.tables"),
    shell:
        logged("report.tables", f"--results {RESULTS} --out {RESULTS}/tables")


rule draw_figures:
    input:
        rules.make_tables.output,
    output:
        [
            report(
                PATHS.report("figures", f"{name}.svg"), caption=f"../report/captions/{name}.rst", category="Figures"
            )
            for name in CAPTIONED
        ],
        [PATHS.report("figures", f"{name}.svg") for name in FIGURES if name not in CAPTIONED],
        [PATHS.report("figures", f"{name}.{kind}") for name in FIGURES for kind in ("png", "pdf")],
        [PATHS.report("figures", f"model_{name}.{kind}") for name in STUDY.axes["model"] for kind in ("svg", "png")],
    log:
        PATHS.log("draw_figures"),
    conda:
        ENVIRONMENT
    threads: 2
    params:
        code=code_hash("report.figures"),
    shell:
        logged("report.figures", f"--results {RESULTS} --out {RESULTS}/figures --processes {{threads}}")


rule draw_kenviz:
    input:
        scores=RULES.kenviz_scores(),
        finetuned=PATHS.finetuned(*RULES.kenviz_cell) / "manifest.json",
    output:
        picture=report(
            PATHS.report("figures", "kenviz.svg"), caption="../report/captions/kenviz.rst", category="KENviz"
        ),
        others=[PATHS.report("figures", f"kenviz.{kind}") for kind in ("png", "pdf", "json")],
        page=report(PATHS.report("report", "kenviz.html"), caption="../report/captions/explorer.rst", category="KENviz"),
    log:
        PATHS.log("draw_kenviz"),
    conda:
        ENVIRONMENT
    params:
        subnetwork=RULES.kenviz_files([STUDY.config["kenviz"]["method"]]),
        compared=RULES.kenviz_files(RULES.kenviz_methods),
        matrix=RULES.kenviz_matrix,
        finetuned=PATHS.finetuned(*RULES.kenviz_cell),
        code=code_hash("report.kenviz"),
    shell:
        logged(
            "report.kenviz",
            f"--subnetwork {{params.subnetwork}} {{params.matrix}} --out {RESULTS}/figures/kenviz --explorer {{output.page}}"
            " --compared {params.compared} --pretrained {params.finetuned}/initial.safetensors"
            " --finetuned {params.finetuned}/model.safetensors",
        )


rule write_report:
    input:
        rules.make_tables.output,
        rules.draw_figures.output,
        rules.draw_kenviz.output,
        PATHS.provenance,
    output:
        report(PATHS.report("report", "index.html"), caption="../report/captions/page.rst", category="Report"),
        PATHS.report("report", "appendix.html"),
    log:
        PATHS.log("write_report"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.page"),
    shell:
        logged("report.page", f"--results {RESULTS}")


rule write_publication:
    input:
        rules.make_tables.output,
        published="config/published.yaml",
    output:
        [PATHS.report("publication", f"{table}.{kind}") for table in outputs.PUBLICATION for kind in ("tex", "md")],
    log:
        PATHS.log("write_publication"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.publication"),
    shell:
        logged(
            "report.publication",
            f"--results {RESULTS} --published {{input.published}} --out {RESULTS}/publication",
        )


rule write_manifest:
    input:
        rules.write_report.output,
        rules.write_publication.output,
        RULES.released(),
    output:
        PATHS.manifest,
    log:
        PATHS.log("write_manifest"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("study.manifest"),
    shell:
        logged("study.manifest", f"{RESULTS}")


rule print_report:
    input:
        rules.write_report.output,
    output:
        PATHS.report("report", "report.pdf"),
        PATHS.report("report", "appendix.pdf"),
    log:
        PATHS.log("print_report"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("report.pdf"),
    shell:
        logged("report.pdf", f"--results {RESULTS}")


rule figures:
    input:
        [PATHS.report("figures", f"{name}.svg") for name in (*FIGURES, "kenviz")],
