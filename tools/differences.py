"""The differences that the tables of the pages show."""

# Systems of the recipe.
RECIPE = [
    "mlkd - student_noisy",
    "mlkd_semi - student_noisy",
    "student_noisy - student_clean",
    "kd_last - student_noisy",
    "teacher_noisy - student_noisy",
    "mlkd_semi - mlkd",
    "mlkd - kd_last",
    "mlkd - teacher",
    "mlkd - teacher, clean",
    "mlkd - student_noisy, clean",
    "mlkd - student_noisy, unseen noise",
]
# On ASED, where mlkd_semi is called `semi`.
ASED = [
    "semi - student_noisy",
    "semi - matched",
    "semi - control",
    "matched - student_noisy",
    "mlkd - student_noisy",
    "semi - mlkd",
    "control - student_noisy",
    "mlkd - control",
    "repeated - control",
    "repeated - student_noisy",
    "repeated - semi",
    "semi - teacher, clean",
    "semi - student_noisy, unseen noise",
    "mlkd - teacher",
]
RAVDESS = [
    "semi - student_noisy",
    "semi - control",
    "repeated - control",
    "repeated - student_noisy",
    "control - student_noisy",
    "repeated - semi",
    "semi - teacher, clean",
    "semi - student_noisy, unseen noise",
    "semi - control, unseen noise",
]
# `semi` in the present order of an epoch is called `spread`.
SPREAD = [
    "spread - semi",
    "spread - student_noisy",
    "semi - student_noisy",
    "spread - control",
    "spread - student_noisy, unseen noise",
    "spread - control, unseen noise",
]
ASED_LAST = [
    "semi_repeated - student_noisy",
    "semi_repeated - control",
    "repeated - student_noisy",
    "repeated - control",
    "repeated - semi_repeated",
    "control - student_noisy",
    "repeated - control, unseen noise",
]
# All five folds of ASED.
ASED_POOLED = [
    "repeated - student_noisy",
    "repeated - control",
    "control - student_noisy",
    "repeated - control, unseen noise",
]
# EmoDB, where `student_noisy` was not run again.
EMODB = ["semi - control", "repeated - control"]
