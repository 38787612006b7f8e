"""mini-XNLI: a small, seeded, parallel French-English inference dataset written by a grammar.

An *item* is a meaning (premise, hypothesis, gold label) expressed in both languages. A sentence is a `Clause`: a
subject, a verb, optionally an object, a manner, a place and a time, optionally negated. The label is *computed*
from the two clauses by the rules of natural logic, independently of how the pair was made:

1. In each slot, the premise's word equals the hypothesis's ("="), implies it ("<": dog < animal, "in the garden" <
   no place), is implied by it (">"), excludes it ("|": opposites) or is independent of it ("#").
2. The relations of the slots after the subject are combined into one relation of the two activities
   (`activity_relation`); negation reverses it (`NEGATED`): "does not eat fruit" < "does not eat apples".
3. "=" and "<" give an entailment, "|" a contradiction, ">" and "#" a neutral pair, if the premise's subject is
   the hypothesis's or a kind of it ("the old pianist" < "the musician"). *All*, *no*, *some* and *three* reverse
   the relation of the subjects as well (`quantified_label`): "all animals sleep" implies "all dogs sleep".
4. A pair whose label is open to dispute has no label (None) and is never used. As in other inference data, both
   sentences describe one subject and one occasion: reading "inside" excludes reading "outside".

The hypothesis is drawn first, independently of the label, so that it tells nothing about the label; then premises
near it are drawn until one makes the wanted label true. The splits share no combination of subject and verb
(`ACTIVITIES`). Annotators sometimes disagree (`DISAGREEMENT`): `label` is the annotation, `gold` the label that the
grammar computes.
"""

from hf_langimb.data.mini_xnli.generation import external_sentences, generate, load, noise_ceiling, pretraining_text
from hf_langimb.data.mini_xnli.meaning import LABELS
from hf_langimb.data.mini_xnli.sentences import LANGUAGES

__all__ = ["LABELS", "LANGUAGES", "external_sentences", "generate", "load", "noise_ceiling", "pretraining_text"]
