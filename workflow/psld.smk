"""The rules. Another workflow loads them as a module; its targets are then their files.

from psld.config.locations import SHIPPED

module psld:
    snakefile: SHIPPED / "workflow/psld.smk"

use rule * from psld
"""


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/samples.smk"
include: "rules/results.smk"
