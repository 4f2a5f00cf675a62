"""The measurements of a study, one module each, listed in `report.outputs`.

A module must have

- `COLUMNS`: table name -> its `Columns`, for every table named in the list,
- `compute(files)`: table name -> data frame, from the result files of a study (`contract.ResultFiles`).

It may have the following functions of the computed tables (`contract.ResultTables`):

- `drawings(tables)`: figure name -> `drawing.Drawing`,
- `page(tables)`: values for page.html.j2, where they are available under the name of the module. A
  `contract.PageSection` under "section" is shown without a change of the template,
- `sentences(tables)`: its findings, in the order in which the report lists them. A sentence says one thing, has at
  most three numbers (a test counts them), and has a branch for each outcome that the data can have.
"""
