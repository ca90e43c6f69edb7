"""Which page of the documentation explains an error, by where it comes from."""

from pathlib import Path
from types import TracebackType

HAS_DOCS = (Path(__file__).parents[2] / 'docs' / 'running.md').is_file()
"""Whether the pages lie beside the package, as in a checkout: not in a wheel or an image."""

PAGES = {
    'anatomy.fibres': 'fibres.md#diffusion-images',
    'anatomy.hdbet': 'methods.md#the-brain',
    'app.check': 'checks.md#before-a-run',
    'app.methods': 'methods.md',
    'app.participant': 'inputs.md#problems-in-a-dataset',
    'app.refusals': 'inputs.md#gradient-echo-images',
    'app.slurm': 'running.md#clusters',
    'applications.cosmos': 'orientations.md#what-is-refused-and-what-is-warned-of',
    'applications.dwi': 'inputs.md#diffusion',
    'applications.fibres': 'fibres.md#what-it-needs',
    'applications.nigra': 'nbia.md#substantia-nigra',
    'applications.r2prime': 'inputs.md#spin-echoes-maps-of-r2-t2-or-r2',
    'applications.separation': 'separation.md',
    'applications.tensor': 'orientations.md#what-is-refused-and-what-is-warned-of',
    'biomarkers.oxygen': 'oximetry.md#what-it-needs',
    'biomarkers.positions': 'inputs.md#head-positions',
    'cohort': 'cohorts.md',
    'cohort.classify': 'classify.md#what-it-needs',
    'cohort.combat': 'sites.md#combat',
    'cohort.harmonise': 'sites.md#combat',
    'cohort.normative': 'cohorts.md#z-scores',
    'cohort.patterns': 'nbia.md#patterns',
    'cohort.stages': 'iron-myelin.md#a-disease-group---stages-column',
    'cohort.units': 'classify.md#what-it-needs',
    'dicom': 'dicom.md',
    'execution': 'running.md#resuming-failures-exit-status',
    'execution.array_tasks': 'running.md#clusters',
    'execution.disk_space': 'running.md#limits-of-cpus-and-memory',
    'execution.resources': 'running.md#limits-of-cpus-and-memory',
    'execution.slurm_scripts': 'running.md#clusters',
    'execution.status': 'running.md#progress-and-status',
    'execution.step_jobs': 'running.md#clusters',
    'group': 'cohorts.md',
    'group.classify': 'classify.md#what-it-needs',
    'group.patterns': 'nbia.md#patterns',
    'group.stages': 'iron-myelin.md#a-disease-group---stages-column',
    'interfaces.device': 'methods.md#gpu',
    'interfaces.diffusion': 'inputs.md#diffusion',
    'interfaces.phase': 'inputs.md#gradient-echo-images',
    'interfaces.segmentation': 'inputs.md#segmentations',
    'layout': 'inputs.md#problems-in-a-dataset',
    'layout.bold_run': 'entry_points.md#bold-runs-with-phase',
    'layout.bold_runs': 'entry_points.md#bold-runs-with-phase',
    'layout.gradients': 'inputs.md#diffusion',
    'layout.maps': 'entry_points.md#which-map-is-taken',
    'layout.protocol': 'sites.md#one-protocol',
    'plugins': 'plugins.md#what-is-refused-and-why',
    'recon.conditioning': 'inputs.md#gradient-echo-images',
    'recon.masking': 'methods.md#masks-of-your-own',
    'recon.scaling': 'inputs.md#gradient-echo-images',
    'recon.registry': 'methods.md',
    'templates': 'methods.md#templates-and-atlases',
}
"""Room or module of the package -> page and heading; a module comes before its room."""

OF_SERIES, OF_STEP = PAGES['layout'], PAGES['execution']
"""Pages on series whose input is refused, and on steps that failed."""


def address(page: str) -> str:
    """A sentence that names a page: as a file where there is one, else by its name and heading."""
    if HAS_DOCS:
        return f'See docs/{page}.'
    name, _, heading = page.partition('#')
    at = f', at "{" ".join(filter(None, heading.split("-")))}"' if heading else ''
    return f'See the page "{name.removesuffix(".md")}" of the documentation{at}.'


def explained(error: Exception) -> str:
    """The message of an error, with the page that explains it where there is one."""
    page = _page_of(error.__traceback__)
    return f'{error} {address(page)}' if page else str(error)


def _page_of(trace: TracebackType | None) -> str | None:
    """The page of the last line of a traceback that has one."""
    page = None
    while trace is not None:
        module = trace.tb_frame.f_globals.get('__name__', '').partition('bids_qsm.')[2]
        found = next((PAGES[name] for name in (module, *_rooms(module)) if name in PAGES), None)
        page, trace = (found or page), trace.tb_next
    return page


def _rooms(module: str):
    """The rooms that a module is in, the nearest first."""
    while '.' in module:
        module = module.rpartition('.')[0]
        yield module
