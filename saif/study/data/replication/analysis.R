# Redoes the main estimate of this export from trials.csv: Rscript analysis.R
#
# Needs R alone; with lme4 installed it also fits a mixed model. For each preset: the mean over participants of their share of votes for the study's
# first arm (a tie or both bad counts 1/2), with a 95 % interval and a t test against 1/2. Votes of
# one participant count as alike; where prompts were shared, votes on one prompt do, too.

# As text, or an id such as 1e10 would become a number.
trials <- read.csv("trials.csv", colClasses = "character", encoding = "UTF-8", na.strings = "")
trials <- trials[trials$kind == "main" & trials$state == "voted" & !is.na(trials$prefers_first), ]
trials$score <- as.numeric(trials$prefers_first)
# Trials with several prompts in turn are known by the first: ["a", "b"] is a.
trials$prompt <- sub('^\\["([^"]*)".*$', "\\1", trials$prompts)
trials$prompt[trials$prompts == "[]"] <- NA

cluster_variance <- function(votes, value, cluster) {
  own <- table(votes$participant)
  weight <- 1 / (length(own) * as.numeric(own[votes$participant]))
  sums <- tapply(weight * (votes$score - value), cluster, sum)
  sum(sums^2) * length(sums) / (length(sums) - 1)
}

estimate <- function(votes) {
  means <- tapply(votes$score, votes$participant, mean)
  value <- mean(means)
  n <- length(means)
  n_votes <- nrow(votes)
  found <- data.frame(
    preset = votes$preset[1], share = value, low = NA, high = NA, t = NA, df = NA, p = NA,
    participants = n, votes = n_votes
  )
  if (n < 2) return(found)
  df <- n - 1
  variance <- cluster_variance(votes, value, votes$participant)
  pairs <- unique(votes[, c("participant", "prompt")])
  if (!anyNA(votes$prompt) && length(unique(votes$prompt)) > 1 && max(table(pairs$prompt)) > 1) {
    by_prompt <- cluster_variance(votes, value, votes$prompt)
    both <- cluster_variance(votes, value, paste(votes$participant, votes$prompt, sep = "\n"))
    variance <- max(variance + by_prompt - both, variance, by_prompt)
    df <- min(n, length(unique(votes$prompt))) - 1
  }

  # As how many independent votes these count (Korn and Graubard 1998).
  binomial <- value * (1 - value) / n_votes
  n_eff <- if (binomial < 1e-18) df + 1 else n_votes / max(1, variance / binomial)
  n_eff <- n_eff * (qnorm(0.975) / qt(0.975, df))^2
  if (n < 15 || value == 0 || value == 1) {  # Clopper and Pearson
    wins <- value * n_eff
    found$low <- if (wins > 0) qbeta(0.025, wins, n_eff - wins + 1) else 0
    found$high <- if (wins < n_eff) qbeta(0.975, wins + 1, n_eff - wins) else 1
  } else {  # Wilson
    z <- qnorm(0.975)
    centre <- (value + z^2 / (2 * n_eff)) / (1 + z^2 / n_eff)
    half <- z * sqrt(value * (1 - value) / n_eff + z^2 / (4 * n_eff^2)) / (1 + z^2 / n_eff)
    found$low <- max(0, centre - half)
    found$high <- min(1, centre + half)
  }
  if (variance >= 1e-18) {
    found$t <- (value - 0.5) / sqrt(variance)
    found$df <- df
    found$p <- 2 * pt(-abs(found$t), df)
  }
  found
}

print(do.call(rbind, lapply(split(trials, trials$preset), estimate)), row.names = FALSE)

# The odds of a typical participant on a typical prompt: a level for each of them, as far as there
# are several. A tie is half a vote for either arm, which glmer takes, with a warning that is left out.
mixed <- function(votes) {
  right <- votes$choice == "R" & votes$score == 1
  first <- c(votes$left_arm[votes$choice == "L" & votes$score == 1], votes$right_arm[right])[1]
  votes$side <- ifelse(votes$left_arm == first, 0.5, -0.5)
  votes$place <- as.numeric(votes$position) / 10
  votes$place <- votes$place - mean(votes$place)
  presets <- if (length(unique(votes$preset)) > 1) "0 + preset" else "1"
  levels <- c("participant", if (!anyNA(votes$prompt)) "prompt")
  levels <- Filter(function(name) length(unique(votes[[name]])) > 1, levels)
  terms <- c(presets, "side", "place", sprintf("(1 | %s)", levels))
  suppressWarnings(lme4::glmer(reformulate(terms, "score"), data = votes, family = binomial))
}

if (requireNamespace("lme4", quietly = TRUE)) {
  fitted <- tryCatch(summary(mixed(trials)), error = function(problem) conditionMessage(problem))
  print(fitted)
}
