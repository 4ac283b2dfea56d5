// @ts-check
/** A recording that cannot be used: what is wrong with it, and what helps. Every other error is a bug of this page. */
export class InputError extends Error {
  /**
   * @param {string} problem follows the name of the file, such as "is empty (0 bytes)"
   * @param {string} remedy what the visitor can do
   */
  constructor(problem, remedy) {
    super(`${problem}; ${remedy}`);
    this.problem = problem;
    this.remedy = remedy;
  }
}
