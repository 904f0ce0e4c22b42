// One reference, several samples: a model, and the labels and a figure of each sample. Not run here.
//
// nextflow run pipelines/main.nf --reference reference.h5ad --label cell_type --samples 'samples/*.h5ad'

include { TRIPLETOMICS_FIT     } from './modules/nf-core/tripletomics/fit/main'
include { TRIPLETOMICS_PREDICT } from './modules/nf-core/tripletomics/predict/main'

params.reference = null
params.label     = 'cell_type'
params.samples   = null

workflow {
    reference = Channel.fromPath(params.reference, checkIfExists: true).map { file -> [[id: file.baseName], file] }
    samples   = Channel.fromPath(params.samples, checkIfExists: true).map { file -> [[id: file.baseName], file] }

    TRIPLETOMICS_FIT(reference, params.label)
    TRIPLETOMICS_PREDICT(samples, TRIPLETOMICS_FIT.out.model.map { meta, model -> model }.first())
}
