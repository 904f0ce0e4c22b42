// Not run here. There is no container yet, so `container` is left out.
process TRIPLETOMICS_PREDICT {
    tag "$meta.id"
    label 'process_low'

    conda "${moduleDir}/environment.yml"

    input:
    tuple val(meta), path(cells)
    path model

    output:
    tuple val(meta), path("*.csv") , emit: results
    tuple val(meta), path("*.png") , emit: figure
    tuple val(meta), path("*.json"), emit: types
    path "versions.yml"            , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args   = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    tripletomics predict ${cells} --model ${model} --only-results ${prefix}.csv --figure ${prefix}.png --no-progress --threads ${task.cpus} --json ${args} > ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        tripletomics: \$(tripletomics --version)
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.csv ${prefix}.png ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        tripletomics: \$(tripletomics --version)
    END_VERSIONS
    """
}
