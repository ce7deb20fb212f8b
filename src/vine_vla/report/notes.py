"""What the page says in its own words, in one place, so that its honesty can be reviewed at a glance.

Line breaks mean nothing; `{name}` is filled in by the section that uses the note.
"""

RESULTS = """
Every arm ran the same scenes with the same limit of steps; a stop counts as a failure. {how}
Differences are paired by scene: bootstrap interval over scenes, sign-flip permutation p, exact McNemar
p per training seed. An interval that covers 0 is called unresolved; “detectable” is the true difference
in points that this many scenes find with 80 % power. Of several success-only variants the headline
takes the one that is strongest in this very table. Weak baselines: {weak}.
"""
ONE_EPISODE = "Rates have Wilson intervals, one episode a scene."
SEVERAL_SEEDS = "Seeds are averaged within a scene and scenes are resampled for the intervals."
MEASURED = "These tables are about measured success; they hold no predicted value, neither V nor V_mu."
OPERATORS_UNKNOWN = "this run does not record the operators’ own success, so none could be marked"
OPERATORS = """
the operators themselves succeed in {rate} of their episodes; a flat policy under {share} of that is marked
"""

SCENES = """
Each column is a scene, each row an arm. From left to right: scenes that both {main} and
{rival} solve, that only {main} solves, that only {rival} solves, and that neither does.
"""
ENDINGS = """
Outcome is the simulator’s verdict: dead means failed for good; finished, that the agent took the task
for done and it was not; limit, that steps or subgoals ran out; stopped, that the planner declined to go
on. The reason is what the agent itself knew when its loop ended.
"""
PLANNING = """
Wall-clock time of one call of the planner (mean of an episode), and model calls in an episode: median
and 95th percentile over episodes. Perception and System 1 are not included.
"""

SUBGOALS = """
Predicted before the subgoal was executed, against what the simulator says came of it. This is the
chance of one execution, so neither V nor V_mu. Dots on the diagonal are right; bands resample whole
scenes (95 %); the bars below count rows. Probes judge the model; chosen subgoals are a selection of
what looked best, and are expected to fall below the diagonal where the predictions are noisy.
"""
PLANS = """
A plan’s feasibility is V: P(goal before failure) if the best subgoal is taken from here on. V_mu, which
asks what the demonstrators would have reached, is not shown here. Only the first plan of an episode is
counted.
"""
SCORES = """
“Perfect” is the ECE that these very predictions would have on average if each were exactly right, with
its 95 % quantile: no predictor has ECE 0 at a finite n. An ECE more than 0.05 above it is set in red.
“Base” is the Brier score of always predicting the base rate. An AUROC whose interval covers 0.5 shows
no ranking.
"""
CEILING = """
The true probabilities themselves do not reach AUROC 1, because outcomes are chance events. From
{probes} probes repeated {repeats} times: between {low} (shares of the other repeats, too low) and
{high} (shares that have seen the outcome, too high). {main} covers {first} to {second} of the way from
0.5 to there.
"""
NO_CEILING = """
No probe was repeated in this run, so what AUROC the true probabilities reach is not known: it is below 1,
because outcomes are chance events.
"""
PRUNING = """
How much pruning would have cost: the share of probes that were reached and would have been cut. The
conformal guarantee is claimed for probes of the seen split; elsewhere it is measured.
"""

FILMS = """
A frame is what the camera saw when the subgoal was chosen; the boxes are the perceived scene graph.
Below it: the subgoal, P(goal or reached) as predicted at that moment, and what the simulator says came
of it. Shown are the first scenes of each kind by number, not a choice.
"""
DECISION = """
Feasibility is Q: P(goal before failure) if this subgoal is taken and the best ones follow (V, not
V_mu). Bars show it with its interval over the reporting members. The green path is the plan; dashed
lines and a yellow edge follow a slip; options with a dashed red border were cut before anything moved.
One half of the members chooses, by its score (mean minus a share of the spread); the other half gives
the feasibility, which the choice therefore does not inflate. So the chosen option may show a slightly
lower feasibility than another.
"""

EXPLAINED = """
From {cases} cases whose outcome is known and that training did not see ({source}). Importance says what
the model uses, not what causes success; features that tell the same share theirs.
"""
CHANGED = """
The first subgoal of the plan with all episodes, and of the one that learned without the failures; what the
second choice loses is told by the model with failures. Nearest failed episodes: where such a choice was
seen to fail.
"""
UNKNOWN = """
Every member of the ensemble votes for its best first subgoal. Where the votes are split and much is at stake,
another demonstration tells most.
"""
