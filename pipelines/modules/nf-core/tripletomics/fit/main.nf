// Not run here. There is no container yet, so `container` is left out.
process TRIPLETOMICS_FIT {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"

    input:
    tuple val(meta), path(cells)
    val label

    output:
    tuple val(meta), path("*.tt")  , emit: model
    tuple val(meta), path("*.md")  , emit: card
    tuple val(meta), path("*.csv") , emit: results
    tuple val(meta), path("*.json"), emit: scores
    path "versions.yml"            , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args   = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    tripletomics fit ${cells} --label ${label} --model ${prefix}.tt --card --only-results ${prefix}.csv --no-progress --threads ${task.cpus} --json ${args} > ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        tripletomics: \$(tripletomics --version)
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.tt ${prefix}.md ${prefix}.csv ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        tripletomics: \$(tripletomics --version)
    END_VERSIONS
    """
}
