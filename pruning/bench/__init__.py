"""What a training step costs, next to the plain model: `circuitgraph bench`.

`settings` says what is asked for, `models`, `prompts` and `trained` what it is measured on, `stages` what is
measured, `timing` and `memory` how, `report` what is told; `running` puts them together. Importing this
package loads no torch.
"""
