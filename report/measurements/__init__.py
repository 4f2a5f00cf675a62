"""The measurements of a study, one module each, which `report.outputs` lists.

A module has

- `COLUMNS`: table name -> its `Columns`, for every table named in the list,
- `compute(files)`: table name -> data frame, from the result files of a study (`contract.ResultFiles`),

and may have, each given the computed tables (`contract.ResultTables`),

- `drawings(tables)`: figure name -> `drawing.Drawing`,
- `page(tables)`: what its parts of page.html.j2 show, there under the name of the module; the page shows a
  `contract.PageSection` under "section" without a change of the template,
- `sentences(tables)`: its findings, in the order of the list.
"""
