import { realKubelet } from "../real/under-test.ts";
import { kubeletSuite } from "./suite.ts";

await kubeletSuite(realKubelet);
