"""The rules. To use them in another workflow, load this file as a module, and name files as targets.

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
