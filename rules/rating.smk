"""Ratings by people.

Needs: the answers of two evaluated models; then the files that raters exported, named under `ratings:`.
Makes: results/ratings/{a}~{b}/rate.html, a page to rate with; ratings.json, who wins; preferences.jsonl, pairs for dpo.
Steps: answers side by side, blind -> a person rates and exports -> wins, intervals, agreement -> a preference dataset.
"""


rule rating_page:
    """A page on which a person compares two models' answers without knowing whose they are."""
    input:
        rated_examples,
    output:
        page="results/ratings/{pair}/rate.html",
    log:
        "results/logs/rating_page/{pair}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        models=rated_models,
    shell:
        """
        python "$POSTTRAIN"/make_rating_page.py --a {params.models[0]:q} --b {params.models[1]:q} \
            --examples {input:q} --output {output.page:q} --log {log:q}
        """


rule ratings:
    """What the raters of two models found, and the pairs that they preferred."""
    input:
        rating_files,
    output:
        summary=report("results/ratings/{pair}/ratings.json", caption="captions/rating.rst", category="Ratings"),
        preferences="results/ratings/{pair}/preferences.jsonl",
    log:
        "results/logs/ratings/{pair}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        models=rated_models,
        output=subpath(output.summary, parent=True),
    shell:
        """
        python "$POSTTRAIN"/summarise_ratings.py --a {params.models[0]:q} --b {params.models[1]:q} \
            --ratings {input:q} --output {params.output:q} --log {log:q}
        """


localrules:
    rating_page,
    ratings,
