"""The oracles that every release is held to, each with the test that proves it and the test that notices its mistake.

A test is named ``file:function`` (``learn.test_oracles_maml:test_...``), a property of the conformance suite, which
holds for every registered algorithm, by its own name, and a mistake planted there by the name of its class.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import pytest

from tests.learn import conformance, test_conformance


@dataclass(frozen=True)
class Oracle:
    """What must hold, what proves it, and what fails where it does not hold."""

    says: str
    proofs: tuple[str, ...]
    noticed: tuple[str, ...]


def oracle(says: str, proofs: str, noticed: str) -> Oracle:
    return Oracle(says, tuple(proofs.split()), tuple(noticed.split()))


ORACLES = {
    1: oracle(
        "MAML's meta-gradient equals finite differences for one step and three",
        "learn.test_oracles_maml:test_the_meta_gradient_is_that_of_the_whole_map",
        "learn.test_oracles_maml:test_finite_differences_notice_a_cut_in_the_graph",
    ),
    2: oracle(
        "first-order MAML is MAML with inner gradients detached",
        "learn.test_oracles_maml:test_first_order_takes_the_query_gradient_at_the_adapted_weights "
        "learn.test_oracles_maml:test_first_order_meets_second_order_as_the_step_goes_to_zero",
        "learn.test_oracles_maml:test_another_first_order_is_noticed",
    ),
    3: oracle(
        "Meta-SGD with one constant step size is MAML",
        "learn.test_oracles_meta_sgd:test_one_number_for_all_is_maml",
        "learn.test_oracles_meta_sgd:test_planted_mistakes_are_noticed",
    ),
    4: oracle(
        "ANIL with a mask of everything is MAML, with an empty one joint training",
        "learn.test_oracles_anil:test_a_mask_of_everything_is_maml_and_one_of_nothing_joint_training "
        "learn.test_oracles_anil:test_it_is_maml_with_the_mask_head_only",
        "learn.test_oracles_anil:test_finite_differences_notice_features_detached_before_the_inner_loop",
    ),
    5: oracle(
        "Reptile with one step is the joint direction, and on quadratics its sign makes it converge",
        "learn.test_oracles_reptile:test_one_step_is_the_joint_training_direction "
        "learn.test_oracles_reptile:test_it_moves_towards_the_tasks",
        "WrongSign",
    ),
    6: oracle(
        "prototypes are a linear classifier",
        "learn.test_oracles_heads:test_prototypes_are_a_linear_classifier",
        "learn.test_oracles_heads:test_the_unsquared_distance_is_another_softmax",
    ),
    7: oracle(
        "CAVIA's context begins anew with each task",
        "learn.test_oracles_cavia:test_every_task_starts_anew",
        "learn.test_oracles_cavia:test_planted_mistakes_are_noticed",
    ),
    8: oracle(
        "meta-transfer's factors of one and offsets of zero are the pretrained network; folding changes nothing",
        "learn.test_oracles_mtl:test_factors_of_one_and_offsets_of_zero_are_the_pretrained_network "
        "learn.test_oracles_mtl:test_the_folded_network_is_the_unfolded_one",
        "learn.test_oracles_mtl:test_planted_mistakes_are_noticed",
    ),
    9: oracle(
        "TADAM with shut gates is Prototypical Networks",
        "learn.test_oracles_tadam:test_shut_gates_are_prototypical_networks_to_the_last_bit",
        "learn.test_oracles_tadam:test_the_formula_notices",
    ),
    10: oracle(
        "Simple CNAPS tends to Prototypical Networks as its ridge grows, and ignores affine changes without one",
        "learn.test_oracles_simple_cnaps:test_a_large_ridge_is_prototypical_networks "
        "learn.test_oracles_simple_cnaps:test_any_affine_change_of_features_changes_nothing_without_a_ridge",
        "learn.test_oracles_simple_cnaps:test_another_distance_is_noticed",
    ),
    11: oracle(
        "VERSA without spread is one classifier; a constant added to a sample's logits changes nothing",
        "learn.test_oracles_versa:test_without_spread_it_is_one_generated_linear_classifier "
        "learn.test_oracles_versa:test_adding_a_constant_to_a_samples_logits_changes_nothing",
        "learn.test_oracles_versa:test_the_formula_notices "
        "learn.test_oracles_versa:test_a_dominating_sample_is_noticed",
    ),
    12: oracle(
        "PLATIPUS without spread is MAML",
        "learn.test_oracles_platipus:test_without_spread_and_gamma_it_is_maml",
        "learn.test_oracles_platipus:test_the_comparison_with_maml_notices",
    ),
    13: oracle(
        "the generator of a generated head has a gradient, that of finite differences",
        "learn.test_oracles_generated:test_gradients_equal_finite_differences every_learned_tensor_gets_a_gradient",
        "learn.test_oracles_generated:test_a_severed_generator_has_no_gradient CutFeatures",
    ),
    14: oracle(
        "soft sharing rests where the closed form of mean-regularised least squares is",
        "learn.test_oracles_soft_sharing:test_training_rests_at_the_closed_form",
        "learn.test_oracles_soft_sharing:test_the_closed_form_notices",
    ),
    15: oracle(
        "elastic weight consolidation meets the joint optimum of quadratics",
        "learn.test_oracles_continual:test_with_the_exact_information_it_meets_the_joint_optimum "
        "learn.test_oracles_continual:test_logistic_regression_has_the_known_information",
        "learn.test_oracles_continual:test_the_joint_optimum_notices "
        "learn.test_oracles_continual:test_another_information_is_noticed",
    ),
    16: oracle(
        "L2 towards a start, or towards neighbours, rests at its closed form",
        "transfer.test_fine_tuning:test_it_rests_at_the_closed_form "
        "transfer.test_fine_tuning:test_neighbours_are_a_pull_to_their_weighted_mean_with_the_sum_of_their_strengths",
        "transfer.test_fine_tuning:test_other_pulls_are_noticed",
    ),
    17: oracle(
        "LogME is the logarithm of a Gaussian density, also with more features than examples",
        "transfer.test_scores:test_the_evidence_is_the_gaussian_density_also_with_fewer_examples_than_features",
        "transfer.test_scores:test_the_sum_over_the_non_zero_eigenvalues_alone_is_not_the_density",
    ),
    18: oracle(
        "the H-score is the explained sum of squares",
        "transfer.test_scores:test_the_plain_h_score_is_the_explained_sum_of_squares",
        "transfer.test_scores:test_without_shrinkage_few_examples_make_all_networks_look_perfect",
    ),
    19: oracle(
        "the closed form of a ridge's left-out answers is refitting",
        "learn.test_oracles_heads:test_leave_one_out_equals_refitting",
        "learn.test_oracles_heads:test_other_left_out_answers_are_noticed",
    ),
    20: oracle(
        "CORAL gives the source's features the target's covariance",
        "learn.test_domain:test_coral_gives_the_source_the_targets_covariance_and_mean",
        "learn.test_domain:test_coral_the_other_way_round_is_noticed",
    ),
    21: oracle(
        "permuting the classes permutes the outputs",
        "permuting_classes_permutes_outputs",
        "NumbersCount",
    ),
    22: oracle(
        "the order of the examples does not matter",
        "support_order_does_not_matter",
        "FirstExampleOnly learn.test_oracles_matching:test_another_order_is_noticed",
    ),
    23: oracle(
        "a query alone and among 75 is answered alike by all that are inductive",
        "a_query_alone_and_among_75_is_the_same",
        "LeakingQueries",
    ),
    24: oracle(
        "scrambled labels of the examples give chance",
        "scrambled_labels_give_chance",
        "TakesTheExamplesForSorted",
    ),
    25: oracle(
        "the exported graph answers as torch does",
        "learn.test_export_of_algorithms:test_the_exported_graph_answers_as_torch_does "
        "learn.test_conformance:test_onnx_gives_the_same_answers",
        "learn.test_export_of_algorithms:test_a_graph_that_answers_otherwise_is_noticed",
    ),
    26: oracle(
        "predicting twice is equal",
        "predicting_twice_is_equal",
        "PredictsFromItsLastPrediction",
    ),
    27: oracle(
        "averaging copies with permuted hidden units is refused or detected",
        "learn.test_averaging:test_copies_with_renumbered_hidden_units_are_refused_or_detected",
        "learn.test_averaging:test_a_guard_is_not_fooled_by_an_accuracy_that_is_no_number",
    ),
    28: oracle(
        "600 coin flips give the known half-width",
        "learn.test_evaluate:test_interval_of_coin_flips_is_the_known_one",
        "learn.test_evaluate:test_another_interval_is_noticed",
    ),
}
LATER = {}
"""Of what is not here yet."""


def test_there_are_28_and_none_is_forgotten() -> None:
    assert sorted([*ORACLES, *LATER]) == list(range(1, 29))


@pytest.mark.parametrize("number", ORACLES)
def test_an_oracle_is_proven_and_its_mistake_noticed(number: int) -> None:
    found = ORACLES[number]
    assert found.says
    assert found.proofs
    assert found.noticed
    for name in (*found.proofs, *found.noticed):
        assert is_a_test(name), name
    for name in found.proofs:
        if ":" not in name:
            planted = {cls.__name__ for cls, prop in test_conformance.MISTAKES if prop.__name__ == name}
            assert planted & set(found.noticed), f"no mistake is planted against {name}"


def is_a_test(name: str) -> bool:
    """Whether pytest runs a test, a property or a planted mistake of this name, and does not skip it."""
    if ":" not in name:
        properties = {prop.__name__ for prop in conformance.PROPERTIES}
        return name in properties | {cls.__name__ for cls, _ in test_conformance.MISTAKES}
    file, function = name.split(":")
    module = importlib.import_module(f"tests.{file}")
    test = getattr(module, function, None)
    marks = [*getattr(test, "pytestmark", ()), *getattr(module, "pytestmark", ())]
    return callable(test) and function.startswith("test_") and not {m.name for m in marks} & {"skip", "skipif", "xfail"}


@pytest.mark.parametrize(
    "name",
    [
        "learn.test_oracles_maml:test_that_is_not_there",
        "learn.test_oracles_maml:by_hand",
        "no_such_property",
        "ProtoNet",
        "services.test_tables:test_latex_takes_it",  # may be skipped
    ],
)
def test_what_is_no_test_is_noticed(name: str) -> None:
    assert not is_a_test(name)
