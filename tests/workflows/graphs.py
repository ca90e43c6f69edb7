"""Graphs for tests: built and never run, and their ports."""

from itertools import chain

from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

from bids_qsm.app.participant import build_graph
from bids_qsm.layout import Plan

# ports that may stay unused: a series has either kind of parts, single echoes have no relaxation maps, and
# methods of one step make no local field
OPTIONAL = {
    *('real', 'imag', 'magnitude', 'phase', 'manufacturer', 'mask'),
    *('r2star', 't2star', 's0', 'figure_r2star', 'figure_residual', 'first_echo'),
    *('local_field', 'figure_localfield', 'residual'),
    'field_strength',  # not known of the maps of every tool
    'brain',  # of a series that is not laid onto a template
}


def identity_nodes(workflow):
    """(workflow, node) of every IdentityInterface in the workflow and those inside it."""
    for node in workflow._graph.nodes():
        if isinstance(node, pe.Workflow):
            yield from identity_nodes(node)
        elif isinstance(node.interface, IdentityInterface):
            yield workflow, node


def used_ports(root, workflow, node):
    """Ports of ``node`` that a connection enters, and those that one leaves."""
    entered, left = set(), set()
    for edge_source, edge_target, data in chain.from_iterable(
        inner._graph.edges(data=True) for inner in all_workflows(root)
    ):
        for source_port, target_port in data['connect']:
            source_port = source_port if isinstance(source_port, str) else source_port[0]
            if edge_source is node:
                left.add(source_port)
            if edge_target is node:
                entered.add(target_port)
            if edge_source is workflow and source_port.startswith(f'{node.name}.'):
                left.add(source_port.partition('.')[2])
            if edge_target is workflow and target_port.startswith(f'{node.name}.'):
                entered.add(target_port.partition('.')[2])
    return entered, left


def all_workflows(workflow):
    yield workflow
    for node in workflow._graph.nodes():
        if isinstance(node, pe.Workflow):
            yield from all_workflows(node)


def check_ports(root):
    for workflow, node in identity_nodes(root):
        declared = set(node.inputs.copyable_trait_names())
        entered, left = used_ports(root, workflow, node)
        given = {port for port in declared if isdefined(getattr(node.inputs, port))}
        where = f'{workflow.fullname}.{node.name}'
        assert entered <= declared, f'{where} is given undeclared ports {entered - declared}'
        assert left <= declared, f'{where} is read at undeclared ports {left - declared}'
        if node.name == 'inputnode':
            assert declared - left <= OPTIONAL, f'{where} declares {declared - left} and never uses them'
            unset = left - entered - given
            assert unset <= OPTIONAL, f'{where} is never given {unset}'
        else:
            assert declared - entered <= OPTIONAL, f'{where} declares {declared - entered}, never set'


def graph(options, *series):
    plan = Plan(series=series, rejected=(), dataset_name='test')
    workflow, methods = build_graph(options, plan)
    return workflow, methods, plan


def sources_of(flat, node):
    """Port of a node -> name of the step that gives it, past the nodes that only hand on."""
    found = {}
    for source, _, data in flat.in_edges(node, data=True):
        for leaves, enters in data['connect']:
            handed = isinstance(source.interface, IdentityInterface)
            found[enters] = sources_of(flat, source).get(leaves) if handed else source.name
    return found
